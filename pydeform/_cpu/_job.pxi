# What every operation needs: arrays as strides, one convolution as a struct, scratch per thread.


cdef enum:
    TILE_BYTES = 768 << 10  # columns and sums of one tile: they stay in the second-level cache
    MAX_TILE = 384  # positions
    FEW_TILES = 16  # of a whole call: threads feel who has one more

cdef struct Array:  # [batch, channel, position] in some layout; strides in elements
    char* data  # NULL: absent
    int storage, itemsize
    int64_t batch, channel, position

cdef struct Samples:  # [batch, position, group, tap, axis], anywhere; strides in elements
    char* data  # NULL: absent
    int storage, itemsize
    int64_t batch, position, group, tap, axis

cdef struct Tap:  # what is one tap's own, besides its place in the kernel
    double[3] scale  # of its offsets
    double[3] start  # where it reads for an offset of 0
    int64_t[3] size  # of its level
    int64_t first  # the level's first pixel

cdef struct Job:
    const pyd_kernels* k
    int itemsize, rank, channels_last
    pyd_field field
    int64_t batch, channels, out_channels, groups, offset_groups, taps
    int64_t in_group, out_group, in_offset_group  # channels of one of each
    int64_t pixels, positions
    int64_t tile, tiles, stride  # positions of a tile, and those rounded up to whole registers
    int64_t out_size[3]
    int64_t kernel[3]
    int64_t step[3]
    int64_t pad[3]
    int64_t dilation[3]
    int64_t upscale[3]
    int64_t workspace  # bytes that copies of images may take where there is another way
    bint unit  # the weight is 1 and keeps channels apart: no product
    int axes  # along which samples are differentiated, as bits
    int corners  # of a stencil that may have a weight: 1 where every sample is a pixel
    int64_t fan, fan_groups  # taps planned, and offset groups loaded, together without a product
    Array input, out
    Samples offset, mask
    const Tap* tap  # NULL: nothing
    bint levels  # taps read images of their own size
    double multiplications


cdef inline int64_t least(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t most(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


cdef inline int64_t up(int64_t n, int64_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple


cdef inline char* at(const void* data, int64_t element, int itemsize) noexcept nogil:
    return <char*> data + element * itemsize


cdef inline pyd_matrix across(const Array* a, int64_t image, int64_t channel,
                              int64_t position) noexcept nogil:
    """From there on, rows are positions and columns channels."""
    cdef pyd_matrix m
    cdef int64_t start = image * a.batch + channel * a.channel + position * a.position
    m.data = a.data + start * a.itemsize
    m.storage = a.storage
    m.row = a.position
    m.column = a.channel
    return m


cdef inline pyd_matrix along(const Array* a, int64_t image, int64_t channel,
                             int64_t position) noexcept nogil:
    """From there on, rows are channels and columns positions."""
    cdef pyd_matrix m = across(a, image, channel, position)
    m.row = a.channel
    m.column = a.position
    return m


cdef Array take(array, int64_t channels, int64_t positions, bint channels_last) except *:
    """A C-contiguous array [N, channels, *positions] or [N, *positions, channels]; or None."""
    cdef Array a
    memset(&a, 0, sizeof(a))
    if array is None:
        return a
    cdef pyd_described found = described(array)
    a.data = <char*> found.data
    a.storage = storage_of(&found)
    a.itemsize = found.itemsize
    a.batch = channels * positions
    a.channel = 1 if channels_last else positions
    a.position = channels if channels_last else 1
    return a


_MODES = {"zeros": PYD_ZEROS, "clip_zero": PYD_CLIP_ZERO, "border": PYD_BORDER}
_KINKS = {"right": PYD_RIGHT, "open": PYD_OPEN, "mean": PYD_MEAN}


cdef Job make_job(geometry, input, offset, mask) except *:
    cdef Job job
    cdef int a
    cdef bint last = geometry.channels_last
    memset(&job, 0, sizeof(job))
    job.itemsize = 8 if input.dtype.char == "d" else 4
    job.workspace = _workspace
    job.k = pyd_table(_level, job.itemsize == 8)
    job.rank = geometry.rank
    job.channels_last = last
    job.batch = geometry.batch
    job.channels = geometry.channels
    job.out_channels = geometry.out_channels
    job.groups = geometry.groups
    job.offset_groups = geometry.offset_groups
    job.taps = geometry.taps
    job.in_group = job.channels // job.groups
    job.out_group = job.out_channels // job.groups
    job.in_offset_group = job.channels // job.offset_groups
    job.pixels = 1
    job.positions = 1
    job.field.rank = job.rank
    job.field.mode = _MODES[geometry.mode]
    job.field.kink = _KINKS[geometry.kink]
    job.field.length = 3 if job.field.kink == PYD_MEAN else 2
    job.field.corners = job.field.length ** job.rank
    reach = 0
    for a in range(job.rank):
        job.field.size[a] = geometry.size[a]
        job.out_size[a] = geometry.out_size[a]
        job.kernel[a] = geometry.kernel[a]
        job.upscale[a] = geometry.upscale[a] if geometry.upscale else 1
        if not geometry.absolute:  # else the base of every sample is 0
            job.step[a] = geometry.stride[a]
            job.pad[a] = geometry.pad[a]
            job.dilation[a] = geometry.dilation[a]
        job.pixels *= geometry.size[a]
        job.positions *= geometry.out_size[a]
        reach = max(reach, geometry.size[a], geometry.pad[a],
                    geometry.out_size[a] * int(job.step[a])
                    + geometry.kernel[a] * int(job.dilation[a]))
    job.field.wide = max(reach, geometry.channels * int(job.pixels)) >= 1 << 29
    job.input = take(input, job.channels, job.pixels, last)
    job.offset = take_samples(&job, offset, job.rank)
    job.mask = take_samples(&job, mask, 1)
    job.multiplications = (<double> job.batch * job.positions * job.out_channels
                           * job.in_group * job.taps)
    return job


cdef void set_tile(Job* job, int64_t reals) noexcept:
    """As many positions as fit with so many reals each; even shares, whole rows of the product."""
    cdef int64_t tile = TILE_BYTES // most(1, reals * job.itemsize) // 96 * 96, rows = 12
    tile = least(MAX_TILE, most(96, tile))
    job.tiles = most(1, (job.positions + tile - 1) // tile)
    if 1 < job.tiles < FEW_TILES // job.batch:  # with an odd number one of two threads would wait
        job.tiles, rows = up(job.tiles, 2), 6
    job.tile = up((job.positions + job.tiles - 1) // job.tiles, rows)
    job.tiles = most(1, (job.positions + job.tile - 1) // job.tile)
    job.stride = up(job.tile, 16)


cdef inline void set_steps(Job* job, int64_t pixel) noexcept:
    """Neighbouring pixels lie `pixel` elements apart."""
    cdef int a
    for a in range(job.rank - 1, -1, -1):
        job.field.step[a] = pixel
        pixel *= job.field.size[a]


# One thread's scratch. Every buffer is padded to whole registers.
cdef struct Worker:
    int64_t* base  # [rank][stride]: q * stride - pad
    void* offset  # [rank][stride]
    void* mask  # [stride]
    pyd_plan plan
    void* columns  # [tile][depth of a product]
    void* out  # [tile][out channels, each group padded]
    void* zeros
    void* trash
    void* extra  # what else the operation asked for


cdef int64_t lay_worker(const Job* job, Worker* w, char* start, int64_t columns, int64_t out,
                        int64_t extra) noexcept nogil:
    """Point a worker's buffers from `start` on; returns the size of all in bytes."""
    cdef int64_t stride = job.stride, stencil = job.rank * job.field.length * stride
    cdef int64_t corners = job.field.corners * stride, used = 0
    cdef int i, real = job.itemsize
    cdef int64_t* sizes = [  # what has to start as zeros comes first
        (job.channels + 64) * real, job.rank * stride * 8, job.rank * stride * real, stride * real,
        stencil * real, stencil * real, corners * real, corners * 8, corners * 8,
        (job.channels + 64) * real, (stride * columns + 64) * real, (stride * out + 64) * real,
        (extra + 64) * real]
    cdef char* places[13]
    for i in range(13):
        places[i] = start + used
        used += up(sizes[i], 64)
    w.zeros, w.base, w.offset, w.mask = places[0], <int64_t*> places[1], places[2], places[3]
    w.plan.stride = stride
    w.plan.value, w.plan.slope, w.plan.weight = places[4], places[5], places[6]
    w.plan.read, w.plan.reach = <int64_t*> places[7], <int64_t*> places[8]
    w.trash, w.columns, w.out, w.extra = places[9], places[10], places[11], places[12]
    return used


cdef Worker* hire(const Job* job, int threads, int64_t columns, int64_t out, int64_t extra,
                  Memory memory, bint padded=True) except NULL:
    """Scratch for so many threads: `columns` and `out` reals per position, `extra` in all; and
    whether products read more than was put there."""
    cdef Worker one
    cdef int64_t size = lay_worker(job, &one, NULL, columns, out, extra)
    cdef char* block = memory.take(up(threads * sizeof(Worker), 64) + threads * size)
    cdef Worker* workers = <Worker*> block
    cdef int w
    block += up(threads * sizeof(Worker), 64)
    for w in range(threads):
        memset(&workers[w], 0, sizeof(Worker))
        lay_worker(job, &workers[w], block, columns, out, extra)
        memset(block, 0, <char*> workers[w].columns - block)
        if padded:  # what padding held before may be slow to multiply
            memset(workers[w].columns, 0, least(1 << 16, job.stride * columns) * job.itemsize)
            memset(workers[w].extra, 0, least(1 << 16, extra) * job.itemsize)
        block += size
    return workers


cdef void enter_tile(const Job* job, Worker* w, int64_t first, int64_t count) noexcept nogil:
    """base[a][t] = q_a // upscale_a * stride_a - pad_a for the positions of a tile."""
    cdef int64_t q[3]
    cdef int64_t rest = first, t, cell
    cdef int a
    for a in range(job.rank - 1, -1, -1):
        q[a] = rest % job.out_size[a]
        rest = rest // job.out_size[a]
    for t in range(count):
        for a in range(job.rank):
            cell = q[a] if job.upscale[a] == 1 else q[a] // job.upscale[a]
            w.base[a * job.stride + t] = cell * job.step[a] - job.pad[a]
        a = job.rank - 1
        q[a] += 1
        while a > 0 and q[a] == job.out_size[a]:
            q[a] = 0
            a -= 1
            q[a] += 1


# Images with their channels side by side, a few at a time.
cdef struct Images:
    int64_t pixel  # elements between pixels
    int64_t image  # elements between images
    int64_t first  # of those that are here
    int direct  # they are the caller's own memory
    char* data


cdef int64_t open_images(const Job* job, const Array* source, Images* images,
                         Memory memory) except -1:
    """Room for as many images as the limit allows, at least one; returns how many."""
    cdef int64_t size = job.pixels * job.channels
    cdef int64_t room = most(1, least(job.batch, job.workspace // most(1, size * job.itemsize)))
    images.pixel = job.channels
    images.image = size
    images.direct = job.channels_last and source.storage == PYD_NATIVE
    if images.direct:
        images.data = source.data
        images.first = 0
        return most(1, job.batch)
    images.data = memory.take((room * size + 64) * job.itemsize)
    return room


cdef enum:
    PIXELS_AT_ONCE = 512


cdef inline int64_t strip_of(const Job* job) noexcept nogil:
    """Pixels of one task: even shares of an image, in whole lines of a cache."""
    cdef int64_t strips = most(1, (job.pixels + PIXELS_AT_ONCE - 1) // PIXELS_AT_ONCE)
    return most(64, up((job.pixels + strips - 1) // strips, 64))


cdef int64_t open_strips(const Job* job, Images* images, int64_t first,
                         int64_t count) noexcept nogil:
    """These images come next; returns how many tasks for copy_strip that is."""
    cdef int64_t strip = strip_of(job)
    if images.direct:
        return 0
    images.first = first
    return count * ((job.pixels + strip - 1) // strip)


cdef void copy_strip(const Job* job, const Array* source, const Images* images,
                     int64_t task) noexcept nogil:
    """Bring one strip of one image's pixels to channels-last reals."""
    cdef int64_t strip = strip_of(job), strips = (job.pixels + strip - 1) // strip
    cdef int64_t image = task // strips, pixel = task % strips * strip
    cdef pyd_matrix m = across(source, images.first + image, 0, pixel)
    job.k.load(&m, least(strip, job.pixels - pixel), job.channels,
               at(images.data, image * images.image + pixel * images.pixel, job.itemsize),
               images.pixel)


cdef void bring_images(const Job* job, const Array* source, Images* images, int64_t first,
                       int64_t count, int threads):
    cdef int64_t task, tasks = open_strips(job, images, first, count)
    for task in prange(tasks, nogil=True, num_threads=threads, schedule="static"):
        copy_strip(job, source, images, task)


cdef inline const void* image_at(const Job* job, const Images* images,
                                 int64_t image) noexcept nogil:
    return at(images.data, (image - images.first) * images.image, job.itemsize)


cdef const void* load_vector(const Job* job, array, Memory memory) except? NULL:
    """A vector as reals, or NULL for None."""
    cdef pyd_matrix m
    cdef void* to
    if array is None:
        return NULL
    cdef int64_t size = array.size
    cdef pyd_described found = described(array)
    m.data = <char*> found.data
    m.storage = storage_of(&found)
    m.row = 0
    m.column = 1
    to = memory.take((size + 64) * job.itemsize)
    job.k.load(&m, 1, size, to, 0)
    return to
