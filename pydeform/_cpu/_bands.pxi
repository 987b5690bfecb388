# Images as sums of samples read them: in bands of channels, each with its pixels side by side.
#
# Pixels lie a power of two apart as a rule. Then one group's part of them falls into a few sets of
# the first-level cache, and nearly every corner comes from the second; a band is compact, and its
# pixels start on cache lines.

cdef enum:
    LINE = 64  # bytes of a cache line
    BAND_BYTES = 256  # of a pixel at most: the registers that are added up together
    READS = 16  # of a pixel in the mean: from there on a copy pays
    READS_BACK = 8  # and where its gradient is read and written as well


cdef struct Bands:
    int64_t width, pixel  # channels of a band; elements between its pixels
    int64_t band, image  # elements between bands, and between images
    int64_t count  # of bands
    int64_t first  # image that is here
    bint direct  # the caller's own memory, all channels as one band
    char* data


cdef int64_t band_width(const Job* job) noexcept:
    """A part of a group, a whole one, or as many as fill a cache line."""
    cdef int64_t widest = BAND_BYTES // job.itemsize, line = LINE // job.itemsize
    if job.in_offset_group >= widest:
        return widest
    return least(job.channels, job.in_offset_group * most(1, line // job.in_offset_group))


cdef bint read_often(const Job* job, int64_t reads) noexcept:
    """Whether the samples read each pixel so many times."""
    return job.positions * job.taps * job.corners >= reads * job.pixels


cdef int64_t open_bands(Job* job, const Array* source, Bands* bands,
                        Memory memory) except -1:
    """Room for as many images as the limit allows, at least one; returns how many."""
    cdef int64_t size, room
    bands.width = band_width(job)
    bands.pixel = up(bands.width, LINE // job.itemsize)
    bands.count = (job.channels + bands.width - 1) // bands.width
    bands.band = job.pixels * bands.pixel
    bands.image = bands.count * bands.band
    bands.first = 0
    size = bands.image * job.itemsize
    bands.direct = (job.channels_last and source.storage == PYD_NATIVE
                    and (bands.count == 1 or size > job.workspace or not read_often(job, READS)))
    if bands.direct:
        bands.width = bands.pixel = job.channels
        bands.image = source.batch
        bands.data = source.data
        return most(1, job.batch)
    room = most(1, least(job.batch, job.workspace // most(1, size)))
    job.field.wide = job.field.wide or bands.band >= 1 << 29  # padded, indices are larger
    bands.data = memory.take(room * size + 64 * job.itemsize)
    return room


cdef inline const char* band_at(const Job* job, const Bands* bands, int64_t image,
                                int64_t channel) noexcept nogil:
    return at(bands.data, (image - bands.first) * bands.image
              + channel // bands.width * bands.band + channel % bands.width, job.itemsize)


cdef enum:
    BAND_PIXELS = 256  # copied at once: their channels stay close until all bands have theirs


cdef void copy_bands(const Job* job, const Array* source, const Bands* bands,
                     int64_t task) noexcept nogil:
    """Bring all bands of one strip of one image's pixels."""
    cdef int64_t strips = (job.pixels + BAND_PIXELS - 1) // BAND_PIXELS
    cdef int64_t image = bands.first + task // strips, pixel = task % strips * BAND_PIXELS
    cdef int64_t channel = 0
    cdef pyd_matrix m
    while channel < job.channels:
        m = across(source, image, channel, pixel)
        job.k.load(&m, least(BAND_PIXELS, job.pixels - pixel),
                   least(bands.width, job.channels - channel),
                   <char*> band_at(job, bands, image, channel)
                   + pixel * bands.pixel * job.itemsize, bands.pixel)
        channel += bands.width


cdef void bring_bands(const Job* job, const Array* source, Bands* bands, int64_t first,
                      int64_t count, int threads):
    cdef int64_t task, tasks
    if bands.direct:
        return
    bands.first = first
    tasks = count * ((job.pixels + BAND_PIXELS - 1) // BAND_PIXELS)
    for task in prange(tasks, nogil=True, num_threads=threads, schedule="static"):
        copy_bands(job, source, bands, task)
