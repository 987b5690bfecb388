# Blocks of channels, the unit of the backward pass, and what lies around their products.
#
# A block of input channels belongs to one thread at a time, which walks images, tiles, taps and
# positions in a fixed order: no atomics, no locks, and the same bits for any number of threads.
# Only the gradients of offset and mask add up over the blocks of an offset group; each block
# leaves its share in a partial sum, and the shares are added in order.

cdef enum:
    BLOCK_BYTES = 256  # of channels: the width of a product
    NARROWEST = 64  # where a wider block of a large image and its gradient pass the workspace
    CHUNKS = 8  # blocks times batch chunks that may run side by side
    TOGETHER = 4  # bands of a block without a product: their samples lie side by side
    PIXELS_TO_ADD = 4096  # of one task, where parts of an image add up


cdef struct Block:  # channels of one group, or of several whole groups
    int64_t channel, channels, group, groups
    int64_t share, shares  # into the list of shares


cdef struct Share:  # what one block adds to one offset group
    int64_t block, group, channel, channels
    int64_t slot  # of its partial sums; -1: it is the only one, and writes the gradient


cdef struct Back:
    Job job
    int64_t blocks, slots, row, chunks, length  # row: channels of a block, padded
    int64_t parts, part  # of a lone image: each takes so many positions, with sums of its own
    char* part_grad  # [part][block][pixels][pixel]: their gradients of the input; parts > 1
    Block* block
    Share* share  # [offset group][...]: ascending channels
    int64_t shares
    Array weight, grad_output
    Array input  # gradients to write; data == NULL: not needed
    Samples offset, mask
    bint want_weight, per_sample
    char* packed  # [set][block]: weights as the product reads them, [tap][group][panel][o][panel]
    char* grad_weight  # [chunk][block]: [tap][group][o][row]
    int64_t block_weights  # reals of one block's weights, and of its gradient
    int64_t grad_weights
    char* partial  # [chunk][slot][tap][rank + 1][window]
    int64_t start, window  # the positions whose partial sums are here
    int64_t rows, pixel, tangents, most_groups
    int64_t copies  # of a block: the image, its gradient, and the gradient's cotangent
    bint direct  # images are read and gradients written in the caller's own memory
    Array grad_weight_out
    bint second_order  # then these are the cotangents of the gradients:
    Tangents second
    Array u, omega
    char* packed_omega


cdef void plan_blocks(Back* back, Memory memory) except *:
    cdef Job* job = &back.job
    cdef int64_t width = BLOCK_BYTES // job.itemsize, channel = 0, b = 0, s = 0, end, first
    cdef int64_t most_blocks, groups  # whole groups side by side
    cdef int64_t together = 1, line = 1  # bands of a block; reals of a cache line
    if job.unit:  # no product to fill
        width = band_width(job)
        if job.batch == 1 and job.channels <= width:  # a lone block: leave work for two threads
            width = most(least(width, NARROWEST // job.itemsize), (width + 1) // 2)
    while (width * job.itemsize > NARROWEST and not back.direct
           and not copies_fit(job, back.copies * width)):
        width = width // 2
    if job.unit and job.in_group <= width:  # samples of several groups lie side by side
        line = LINE // job.itemsize
        together = least(TOGETHER, job.batch * (job.channels // width) // CHUNKS)
        while together > 1 and not copies_fit(job, back.copies * together * width):
            together -= 1
        width *= most(1, together)
    most_blocks = job.groups * (job.in_group // width + 1)
    groups = most(1, width // job.in_group)
    back.block = <Block*> memory.take(most_blocks * sizeof(Block), True)
    back.share = <Share*> memory.take((most_blocks + job.offset_groups) * sizeof(Share), True)
    back.row = 0
    while channel < job.channels:
        block = &back.block[b]
        block.channel = channel
        block.group = channel // job.in_group
        if job.in_group <= width:
            block.groups = least(groups, job.groups - block.group)
            block.channels = block.groups * job.in_group
        else:
            block.groups = 1
            block.channels = least(width, (block.group + 1) * job.in_group - channel)
        end = channel + block.channels
        block.share = s
        while channel < end:
            share = &back.share[s]
            share.block = b
            share.group = channel // job.in_offset_group
            share.channel = channel
            share.channels = least(end, (share.group + 1) * job.in_offset_group) - channel
            channel += share.channels
            s += 1
        block.shares = s - block.share
        back.row = most(back.row, block.channels)
        back.rows = most(back.rows, block.groups * job.out_group)
        back.most_groups = most(back.most_groups, block.groups)
        b += 1
    back.blocks = b
    back.shares = s
    back.pixel = back.row
    if together > 1:  # an odd number of lines, so that pixels do not share few sets of a cache
        back.pixel = (back.pixel // line | 1) * line
        if back.pixel < back.row:
            back.pixel += 2 * line
    back.row = up(back.row, job.k.lanes) + job.k.lanes
    back.slots = 0
    first = 0
    while first < s:
        end = first
        while end < s and back.share[end].group == back.share[first].group:
            end += 1
        for b in range(first, end):
            back.share[b].slot = -1
            if end - first > 1:
                back.share[b].slot = back.slots
                back.slots += 1
        first = end


cdef inline int64_t in_each(const Block* block) noexcept nogil:
    """Channels of one group inside this block."""
    return block.channels // block.groups


cdef void load_outputs(const Back* back, const Block* block, int64_t image, int64_t first,
                       int64_t count, void* y) noexcept nogil:
    """grad_output of this block's groups: [position][group][output], or [position][output][group]
    where a group has one channel."""
    cdef const Job* job = &back.job
    cdef int64_t rows = block.groups * job.out_group, o
    cdef pyd_matrix m = across(&back.grad_output, image, block.group * job.out_group, first)
    if job.in_group > 1:
        job.k.load(&m, count, rows, y, rows)
        return
    m.column *= job.out_group
    for o in range(job.out_group):
        job.k.load(&m, count, block.channels, at(y, o * block.channels, job.itemsize), rows)
        m.data += back.grad_output.channel * back.grad_output.itemsize


cdef void pack_block(const Back* back, const Array* weight, char* packed, int64_t block_index,
                     int64_t sample) noexcept nogil:
    """packed[tap][group][panel][o][panel width]: what carries grad_output back to columns."""
    cdef const Job* job = &back.job
    cdef const Block* block = &back.block[block_index]
    cdef int64_t width = job.k.panel, inside = in_each(block), g, panel, o
    cdef int64_t panels = (inside + width - 1) // width
    cdef int64_t row = job.in_group * job.taps, start = block.channel % job.in_group
    cdef int64_t one = panels * width * job.out_group  # of one tap and group
    cdef pyd_matrix m
    m.storage = weight.storage
    m.row = 1
    if job.in_group == 1:  # [tap][output of the group][channel]
        m.column = job.out_group * job.taps
        for o in range(job.out_group):
            m.data = weight.data + weight.itemsize * (
                sample * weight.batch + (block.channel * job.out_group + o) * job.taps)
            job.k.load(&m, job.taps, block.channels, at(packed, o * back.row, job.itemsize),
                       job.out_group * back.row)
        return
    m.column = job.taps
    for g in range(block.groups):
        for panel in range(panels):
            for o in range(job.out_group):  # [channel][tap] turns into [tap][channel]
                m.data = weight.data + weight.itemsize * (
                    sample * weight.batch + ((block.group + g) * job.out_group + o) * row
                    + (start + panel * width) * job.taps)
                job.k.load(&m, job.taps, least(width, inside - panel * width),
                           at(packed, g * one + (panel * job.out_group + o) * width,
                              job.itemsize), block.groups * one)


cdef void carry_back(const Back* back, const Block* block, const char* packed, int64_t tap,
                     int64_t count, const void* y, void* columns) noexcept nogil:
    """columns [count][row] = y [count][out channels of the block] * packed[tap]."""
    cdef const Job* job = &back.job
    cdef int64_t width = job.k.panel, inside = in_each(block), g
    cdef int64_t rows = block.groups * job.out_group
    cdef int64_t one = up(inside, width) * job.out_group
    if job.in_group == 1:
        for g in range(job.out_group):
            job.k.multiply_each(count, block.channels, at(y, g * block.channels, job.itemsize),
                                rows,
                                at(packed, (tap * job.out_group + g) * back.row, job.itemsize),
                                columns, back.row, g > 0)
        return
    for g in range(block.groups):  # ascending: the padding of one is overwritten by the next
        job.k.product(count, up(inside, job.k.lanes), job.out_group,
                      at(y, g * job.out_group, job.itemsize), rows, 1,
                      at(packed, (tap * block.groups + g) * one, job.itemsize), width,
                      job.out_group * width, at(columns, g * inside, job.itemsize), back.row, 0)


cdef void weight_product(const Back* back, const Block* block, char* grad, int64_t tap,
                         int64_t count, const void* y, const void* columns) noexcept nogil:
    """grad[tap][group][o][row] += y^T columns"""
    cdef const Job* job = &back.job
    cdef int64_t inside = in_each(block), g, rows = block.groups * job.out_group
    cdef int64_t row = up(inside, job.k.lanes)
    if job.in_group == 1:
        for g in range(job.out_group):
            job.k.multiply_down(count, block.channels, at(y, g * block.channels, job.itemsize),
                                rows, columns, back.row,
                                at(grad, (tap * job.out_group + g) * back.row, job.itemsize))
        return
    for g in range(block.groups):
        job.k.product(job.out_group, row, count, at(y, g * job.out_group, job.itemsize), 1, rows,
                      at(columns, g * inside, job.itemsize), back.row, job.k.panel,
                      at(grad, (tap * block.groups + g) * job.out_group * row, job.itemsize),
                      row, 1)


cdef void store_grad_weight(const Back* back, const Array* to, int64_t chunk, int64_t block_index,
                            int64_t sample) noexcept nogil:
    cdef const Job* job = &back.job
    cdef const Block* block = &back.block[block_index]
    cdef int64_t inside = in_each(block), row = up(inside, job.k.lanes), g, o
    cdef int64_t whole = job.in_group * job.taps, start = block.channel % job.in_group
    cdef char* grad = grad_weight_of(back, chunk, block_index)
    cdef pyd_matrix m
    m.storage = to.storage
    m.row = 1
    if job.in_group == 1:
        m.column = job.out_group * job.taps
        for o in range(job.out_group):
            m.data = to.data + to.itemsize * (
                sample * to.batch + (block.channel * job.out_group + o) * job.taps)
            job.k.store(at(grad, o * back.row, job.itemsize), job.out_group * back.row, job.taps,
                        block.channels, NULL, &m)
        return
    m.column = job.taps
    for g in range(block.groups):
        for o in range(job.out_group):  # [tap][channel] turns into [channel][tap]
            m.data = to.data + to.itemsize * (
                sample * to.batch + ((block.group + g) * job.out_group + o) * whole
                + start * job.taps)
            job.k.store(at(grad, (g * job.out_group + o) * row, job.itemsize),
                        block.groups * job.out_group * row, job.taps, inside, NULL, &m)


cdef inline char* grad_weight_of(const Back* back, int64_t chunk, int64_t block) noexcept nogil:
    return at(back.grad_weight, (chunk * back.blocks + block) * back.grad_weights,
              back.job.itemsize)


cdef inline char* packed_of(const Back* back, char* packed, int64_t chunk,
                            int64_t block) noexcept nogil:
    return at(packed, ((chunk if back.per_sample else 0) * back.blocks + block)
              * back.block_weights, back.job.itemsize)


cdef void leave(const Back* back, const Share* share, const Samples* gradient, int64_t part,
                int64_t parts, int64_t chunk, int64_t image, int64_t tap, int64_t first,
                int64_t count, const void* values) noexcept nogil:
    """Put one row of sums for one tap where it belongs: the gradient, or a partial sum."""
    cdef const Job* job = &back.job
    cdef int64_t row
    if share.slot < 0:
        store_row(job, gradient, part, image, share.group, tap, first, count, values)
        return
    row = ((chunk * back.slots + share.slot) * job.taps + tap) * (job.rank + 1)
    row += part if parts > 1 else job.rank
    memcpy(at(back.partial, row * back.window + first - back.start, job.itemsize), values,
           count * job.itemsize)


cdef void add_rows(const Back* back, const Share* shares, int64_t count_shares, int64_t chunk,
                   int64_t image, int64_t tap, int64_t first, Worker* w) noexcept nogil:
    """Add a tile of one tap's partial sums over the blocks of an offset group; write them."""
    cdef const Job* job = &back.job
    cdef int64_t count = least(job.tile, job.positions - first), row, s
    cdef int part
    cdef char* source
    for part in range(job.rank + 1):
        if (back.mask.data if part == job.rank else back.offset.data) == NULL:
            continue
        for s in range(count_shares):
            row = ((chunk * back.slots + shares[s].slot) * job.taps + tap) * (job.rank + 1) + part
            source = at(back.partial, row * back.window + first - back.start, job.itemsize)
            if s == 0:
                memcpy(w.mask, source, count * job.itemsize)
            else:
                job.k.add(source, NULL, count, w.mask)
        store_row(job, &back.mask if part == job.rank else &back.offset,
                  0 if part == job.rank else part, image, shares.group, tap, first, count, w.mask)


cdef void add_shares(const Back* back, int64_t task, int64_t round_, Worker* w) noexcept nogil:
    """All tiles here of one (chunk, offset group, tap)."""
    cdef const Job* job = &back.job
    cdef int64_t tap = task % job.taps, rest = task // job.taps, first = back.start
    cdef int64_t last = least(job.positions, first + back.window)
    cdef int64_t group = rest % job.offset_groups, chunk = rest // job.offset_groups
    cdef int64_t image = chunk * back.length + round_, begin = 0, end
    if image >= least(job.batch, (chunk + 1) * back.length):
        return
    while back.share[begin].group != group:
        begin += 1
    if back.share[begin].slot < 0:
        return
    end = begin
    while end < back.shares and back.share[end].group == group:
        end += 1
    while first < last:
        add_rows(back, &back.share[begin], end - begin, chunk, image, tap, first, w)
        first += job.tile


cdef int64_t window_of(const Back* back) noexcept:
    """Positions, in whole tiles, whose partial sums stay within the workspace."""
    cdef const Job* job = &back.job
    cdef int64_t tile = (back.chunks * back.slots * job.taps * (job.rank + 1) * job.itemsize
                         * job.tile)
    if tile == 0 or job.tiles * tile <= job.workspace:
        return job.tiles * job.tile
    return most(1, job.workspace // tile) * job.tile


cdef bint waits_in_half(const Back* back) noexcept:
    """Whether a gradient in 16 bits would have to wait for the next window, and be rounded."""
    return (back.window < back.job.positions and back.input.data != NULL
            and back.input.storage != PYD_NATIVE)


cdef void begin_gradient(const Back* back, const Block* block, const pyd_matrix* m,
                         void* grad) noexcept nogil:
    """What a copy of this block's gradient starts from: what earlier windows left, in reals."""
    if back.start > 0:
        back.job.k.load(m, back.job.pixels, block.channels, grad, back.pixel)
    else:
        memset(grad, 0, back.job.pixels * back.pixel * back.job.itemsize)


cdef inline char* part_grad_of(const Back* back, int64_t task) noexcept nogil:
    return at(back.part_grad, task * back.job.pixels * back.pixel, back.job.itemsize)


cdef void add_parts(const Back* back, int64_t task) noexcept nogil:
    """Add the parts' gradients of some pixels of one block in order, and write them."""
    cdef const Job* job = &back.job
    cdef int64_t index = task % back.blocks, pixel = task // back.blocks * PIXELS_TO_ADD, part
    cdef int64_t count = least(PIXELS_TO_ADD, job.pixels - pixel), start = pixel * back.pixel
    cdef const Block* block = &back.block[index]
    cdef char* sum = at(part_grad_of(back, index), start, job.itemsize)
    cdef pyd_matrix m = across(&back.input, 0, block.channel, pixel)
    for part in range(1, back.parts):
        job.k.add(at(part_grad_of(back, part * back.blocks + index), start, job.itemsize), NULL,
                  count * back.pixel, sum)
    job.k.store(sum, back.pixel, count, block.channels, NULL, &m)


cdef void sum_channel(const Job* job, const Array* y, int64_t channel, void* sums) noexcept nogil:
    cdef int64_t image
    cdef pyd_matrix m
    for image in range(job.batch):
        m = along(y, image, channel, 0)
        job.k.row_sums(&m, 1, job.positions, at(sums, channel, job.itemsize))


cdef object bias_gradient(const Job* job, const Array* y, grad_bias, Memory memory):
    cdef char* sums = memory.take((job.out_channels + 64) * job.itemsize, True)
    cdef Array to = take(grad_bias, job.out_channels, 1, False)
    cdef pyd_matrix m = across(&to, 0, 0, 0)
    cdef int64_t channel
    cdef int threads = threads_for(
        <double> job.batch * job.positions * job.out_channels, job.out_channels)
    for channel in prange(job.out_channels, nogil=True, num_threads=threads, schedule="static"):
        sum_channel(job, y, channel, sums)
    job.k.store(sums, job.out_channels, 1, job.out_channels, NULL, &m)
