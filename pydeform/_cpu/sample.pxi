# Sampling and its adjoint by themselves: weighted sums of one tap and weight 1, with the corners'
# weights of any derivative S_alpha.


cdef Job make_sampling(geometry, deriv, image, offset, Memory memory) except *:
    cdef Job job = make_local(geometry, image, None, None, memory)
    cdef int a
    job.offset = take_samples(&job, offset, job.rank)
    if offset is not None:
        job.corners = job.field.corners
    for a in range(job.rank):
        if deriv[a]:
            job.axes |= 1 << a
    if job.axes:  # a pixel's slope has more than one corner
        job.corners = job.field.corners
    return job


def sample(geometry, deriv, input, offset, out):
    """Write S_deriv(input) at base + offset into `out`."""
    cdef Memory memory = Memory()
    cdef Job job = make_sampling(geometry, deriv, input, offset, memory)
    run_local(&job, input, out, memory)


def splat(geometry, deriv, values, offset, out):
    """Write the adjoint of `sample` on `values` into the image `out`."""
    cdef Back back
    cdef Memory memory = Memory()
    memset(&back, 0, sizeof(back))
    back.job = make_sampling(geometry, deriv, out, offset, memory)
    back.job.input.data = NULL  # nothing is read from an image
    open_gradients(&back, values, out)
    run_local_backward(&back, memory)
