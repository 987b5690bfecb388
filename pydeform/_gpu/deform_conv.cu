// Deformable convolution as one matrix product on tensor cores (CUDA, sm_80 and later), one of whose
// operands is sampled on the way: out[row, o] = sum over (channel, tap) of columns * w.
//
// A block has ROWS rows (output positions) and OUTPUTS outputs, a warp 64 x 32 of them and 8 rows (16
// where a block has few warps) to sample. K goes by slabs: 4 lanes' 16-byte loads of channels (32 of
// 16 bits, 16 of float), one tap. To mma weights are the left operand and samples the right one,
// transposed. Within a slab K is permuted, for both alike, so that what a lane t = lane % 4 loads of a
// row is what mma wants of it:
// m16n8k16, step s of 2: k = {2t, 2t+1, 2t+8, 2t+9} are channels 8t + 4s + {0, 1, 2, 3};
// m16n8k8,  step s of 2: k = {t, t+4}               are channels 4t + 2s + {0, 1}.
// So 16 bytes of samples are a lane's fragments of both steps, and 8 rows of them a warp's; weights
// are packed as fragments.
//
// Nothing is waited for that was not asked for long before. In the step of slab i a warp blends the
// corners that it has asked for a step earlier, asks for those of slab i + 1, copies weights of that,
// and multiplies slab i - 1; one barrier ends the step.
//
// Taps go inside of slabs of channels: neighbouring taps read the same pixels, which a slab's few
// bytes of each keep in the L1 cache.
#include "_types.cuh"
#include "_stencil.cuh"

// Weights [Co, C/g, K] as the slabs that the blocks read: [g, slab, K, 16s of outputs, step, lane, 16
// bytes: a lane's fragment of a step], with zeros for the outputs up to a whole number of tiles.
struct pack_weights_args {
    const void* weight;
    void* out;
    int64_t groups, outputs, channels, taps;  // outputs and channels of a group
    int64_t padded;                           // outputs in `out`
};

// What tensor cores take: the 16-bit type as it is, a float to the nearest TF32.
template <class T> __device__ __forceinline__ T to_operand(T value) { return value; }
template <> __device__ __forceinline__ float to_operand<float>(float value) { return __uint_as_float(to_tf32(value)); }

// kernel: pack_weights args=pack_weights_args threads=256 registers=40
// instances: T = half_t | bf16_t | float
template <class T> __device__ void pack_weights(const pack_weights_args& a) {
    constexpr int CHANNELS = 64 / sizeof(T), EACH = 4 / sizeof(T);  // of a slab, of a register
    const int64_t step = int64_t(gridDim.x) * blockDim.x, total = a.groups * a.channels * a.taps * a.padded;
    for (int64_t e = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; e < total; e += step) {
        const int at = int(e % (16 * CHANNELS)), lane = at / EACH / 4 % 32, part = at / EACH % 4;
        const int of_slab = ((lane % 4 * 2 + at / (8 * CHANNELS)) * 2 + part / 2) * EACH + at % EACH;
        const int64_t output = e / CHANNELS % a.padded / 16 * 16 + part % 2 * 8 + lane / 4;
        const int64_t tap = e / CHANNELS / a.padded % a.taps, slab = e / CHANNELS / a.padded / a.taps;  // of all groups
        const int64_t channel = slab * CHANNELS + of_slab, group = channel / a.channels;
        const int64_t from = ((group * a.outputs + output) * a.channels + channel % a.channels) * a.taps + tap;
        static_cast<T*>(a.out)[e] = output < a.outputs ? to_operand(static_cast<const T*>(a.weight)[from]) : T(0.0f);
    }
}

struct fused_args {
    Geometry g;
    Field mask;
    const void* images;  // [N, pixels, C]
    const void* weight;  // as packed
    const void* bias;    // [Co] of T, null for 0
    void* out;           // [N, Co, P], or [N, P, Co] where `last`
    int64_t first, end;   // rows of this launch
    int64_t groups, outputs;  // of the product: groups, outputs of one
    int64_t line;             // 16 bytes that one tap has of weights in a slab of channels
    int64_t of_group, width;  // channels of a group and of an offset group
    int64_t chunk;            // taps that are planned at a time
    int64_t last, whole;  // whole: outputs can be written 16 bytes at a time
};

typedef Pack<unsigned, 4> Quad;

// sum += weight * the channels in a register
template <class T> __device__ __forceinline__ void add_channels(unsigned word, float weight, float* sum) {
    if constexpr (sizeof(T) == 2) {
        float low, high;
        unpack2<T>(word, low, high);
        sum[0] += weight * low, sum[1] += weight * high;
    } else {
        sum[0] += weight * __uint_as_float(word);
    }
}

// A row's fragments of both steps.
template <class T> __device__ __forceinline__ Quad to_fragments(const float (&s)[8]) {
    Quad row;
#pragma unroll
    for (int i = 0; i < 4; ++i) row.v[i] = pack2<T>(s[2 * i], s[2 * i + 1]);
    return row;
}
template <class T> __device__ __forceinline__ Quad to_fragments(const float (&s)[4]) {
    Quad row;
#pragma unroll
    for (int i = 0; i < 4; ++i) row.v[i] = to_tf32(s[i]);
    return row;
}

template <class T> __device__ __forceinline__ void multiply(float (&d)[4], const Quad& a, const unsigned (&b)[2]) {
    if constexpr (sizeof(T) == 2) mma_16816<T>(d, a.v, b);
    else mma_1688_tf32(d, a.v, b);
}

// What a block holds in shared memory, and its part in the work.
template <class T, int R, int ROWS, int OUTPUTS> struct Fused {
    enum {
        N = 1 << R,
        ACROSS = OUTPUTS / 32, WARPS = ROWS / 64 * ACROSS, THREADS = 32 * WARPS,
        VECTOR = 16 / sizeof(T), CHANNELS = 4 * VECTOR,
        PLANS = ROWS * (R == 1 ? 16 : R == 2 ? 9 : 7),
        // Corners of a row that are on their way at a time (more of floats would spill where blocks are small).
        FETCHED = N < 4 || (R == 2 && sizeof(T) == 4 && OUTPUTS == 128) ? 2 : 4,
        EACH = N / FETCHED,                 // how often that is
        PARTS = ROWS / 8 / WARPS * EACH,    // and of all 8 rows that a warp samples in a step
        UNITS = 8 / PARTS,                  // products between two of them
        SAMPLES = ROWS * 4, SLAB = OUTPUTS * 4, STAGES = 3,  // quads of a stage of both operands
        LINE = 64 / sizeof(T),              // outputs of a warp that are written at a time
        STAGED = 64 * (LINE + VECTOR),      // elements that this takes, with gaps against bank conflicts
    };

    // Where registers are few, the next two are as they fit, without spills.
    static constexpr bool MANY = ROWS == 64, OF_120 = PYD_ARCH >= 1200;  // 64 rows: the only block of a multiprocessor
    // Of the four warps that share a scheduler two multiply while two blend: for that the loop is there
    // twice, which takes registers. Blocks of 128 outputs are two to a multiprocessor, so do without.
    static constexpr bool ALTERNATE =
        MANY || (OUTPUTS == 256 && !OF_120 && (R == 1 || (R == 2 && sizeof(T) == 2 && PYD_ARCH >= 900)));
    // Weights of corners are read again when those have come, not kept.
    static constexpr bool AGAIN = !MANY && ((R > 1 && OF_120) || (R == 3 && OUTPUTS == 128));

    // Where a row's samples of a tap lie: the pixel of corner 0, of all images, and the mask.
    struct alignas(8) Place {
        int pixel;
        float scale;
    };
    // Behind one another in shared memory, at places that are known to the compiler.
    struct Shared {
        Quad samples[2 * SAMPLES], slabs[STAGES * SLAB];
        Pack<float, N> weights[PLANS];  // [taps of a chunk, ROWS], 0 for a corner that is not to be read
        Place places[PLANS];
    };
    static_assert(WARPS * STAGED * sizeof(T) <= sizeof(Shared), "outputs are staged there");

    // Corners on their way, and what is needed when they have come.
    struct Taken {
        Quad corners[FETCHED];
        Pack<float, FETCHED> weight;
    };

    const fused_args& a;
    Shared& at;
    int lane, warp, output;  // output: the block's first of its group

    // Samples of `count` taps from `tap` on, of the block's rows. Neighbouring threads: positions.
    __device__ __forceinline__ void plan(int row, int offset_group, int tap, int count) {
#pragma unroll 1
        for (int e = threadIdx.x; e < count * ROWS; e += THREADS) {
            const int r = row + e % ROWS, t = tap + e / ROWS;
            Pack<float, N> weight;
            Place place{0, 0};
#pragma unroll
            for (int b = 0; b < N; ++b) weight.v[b] = 0;
            if (r < int(a.end)) {
                const Row<int, R> of = make_row<int, R>(a.g, r);
                const Part<int, R> whole = part_of_tap<int, R>(a.g, PYD_NO_TABLE, t);
                const Sample<float, int, R> sample = make_sample<float, int, R>(a.g, PYD_NO_TABLE, whole, of, offset_group, t);
                place.scale = field_at<float, int>(a.mask, of.image, of.position, offset_group, t);
                if (sample.nan) place.scale = not_a_number(0.0f);
                // That of a corner outside where its weight is 0, of a pixel elsewhere.
                place.pixel = of.image * int(a.g.pixels) + corner_pixel<float, int, R, false>(whole, sample, 0, true);
#pragma unroll
                for (int b = 0; b < N; ++b) weight.v[b] = corner_weight<float, int, R, false>(sample, 0, b);
            }
            at.weights[e] = weight, at.places[e] = place;
        }
    }

    // Asks for corners of part P of a step, whose first row has the plan e: what is not to be read is 0.
    template <int P> __device__ __forceinline__ void fetch(int e, const char* x, Taken& taken) const {
        constexpr int FIRST = P % EACH * FETCHED;
        e += P / EACH * 8;
        const int pixel = at.places[e].pixel;
        taken.weight = Pack<float, FETCHED>::load(at.weights[e].v + FIRST);
#pragma unroll
        for (int b = 0; b < FETCHED; ++b) {
            int away = 0;
#pragma unroll
            for (int d = 0; d < R; ++d) away = away * int(a.g.size[d]) + ((FIRST + b) >> (R - 1 - d) & 1);
            const char* from = x + wide_product(pixel + away, int(a.g.channels) * int(sizeof(T)));
#pragma unroll
            for (int v = 0; v < 4; ++v) taken.corners[b].v[v] = 0;
            if (taken.weight.v[b] != 0) taken.corners[b] = Quad::load(reinterpret_cast<const unsigned*>(from));
        }
    }

    // What has come of part P; to a stage, once it is all of a row.
    template <int P> __device__ __forceinline__ void blend(int stage, int e, const Taken& taken, float (&value)[VECTOR]) const {
        constexpr int FIRST = P % EACH * FETCHED;
        Pack<float, FETCHED> weight = taken.weight;
        if constexpr (AGAIN) weight = Pack<float, FETCHED>::load(at.weights[as_unknown(e) + P / EACH * 8].v + FIRST);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] = FIRST ? value[v] : 0.0f;
#pragma unroll
        for (int b = 0; b < FETCHED; ++b)
#pragma unroll
            for (int v = 0; v < 4; ++v) add_channels<T>(taken.corners[b].v[v], weight.v[b], value + v * (VECTOR / 4));
        if (FIRST + FETCHED < N) return;
        const float scale = at.places[e + P / EACH * 8].scale;
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] *= scale;
        at.samples[stage + (warp * (PARTS / EACH) + P / EACH) * 32 + lane] = to_fragments<T>(value);
    }

    // One tap's weights.
    __device__ __forceinline__ void weigh(int stage, int line) const {
        const Quad* from = static_cast<const Quad*>(a.weight) + line;
#pragma unroll
        for (int i = 0; i < SLAB; i += THREADS) copy_async(at.slabs + stage + threadIdx.x + i, from + i);
    }

    // The warp's fragments of weights: of 16 outputs and of 16 more, two steps of each.
    __device__ __forceinline__ void read_slab(int stage, Quad (&left)[4]) const {
        const Quad* from = at.slabs + stage + warp % ACROSS * 128 + lane;
#pragma unroll
        for (int i = 0; i < 4; ++i) left[i] = from[i * 32];
    }

    // Products with the warp's rows, from unit FROM of 8 rows up to TO.
    template <int FROM, int TO>
    __device__ __forceinline__ void products(int stage, const Quad (&left)[4], float (&sum)[8][2][4]) const {
        const Quad* from = at.samples + stage + warp / ACROSS * 256 + lane;
        Quad next = from[FROM * 32];
#pragma unroll
        for (int u = FROM; u < TO; ++u) {
            const Quad rows = next;
            if (u + 1 < TO) next = from[(u + 1) * 32];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const unsigned right[2] = {rows.v[i / 2 * 2], rows.v[i / 2 * 2 + 1]};
                multiply<T>(sum[u][i % 2], left[i % 2 * 2 + i / 2], right);
            }
        }
    }

    // Where the work is, in channels of one offset group and in taps that are planned. Stages are counted in quads.
    struct Course {
        int plans, e;         // how many there are; that of the next slab's first row
        const char* x;        // channels of pixel 0
        int w;                // weights, all of them this thread's part
        int rest;             // slabs after that which is blended
        int sampled, copied;  // stages of that, and of the weights of the one before
    };

    // The products of part P with the slab before.
    template <int P> __device__ __forceinline__ void multiplied(const Course& c, Quad (&left)[4], float (&sum)[8][2][4]) const {
        if (P == 0 || PARTS > EACH) read_slab(c.copied, left);
        products<P * UNITS, (P + 1) * UNITS>(c.sampled ^ SAMPLES, left, sum);
    }

    // Parts from P on of a step; products before the blend, after it, or none where there is no slab before.
    enum { NONE, BEFORE, AFTER };
    template <int P, int PRODUCTS>
    __device__ __forceinline__ void parts(Course& c, Taken& taken, float (&value)[VECTOR], Quad (&left)[4], float (&sum)[8][2][4]) const {
        if constexpr (PRODUCTS == BEFORE) multiplied<P>(c, left, sum);
        blend<P>(c.sampled, c.e, taken, value);
        if constexpr (P + 1 < PARTS) {
            fetch<P + 1>(c.e, c.x, taken);
        } else {
            c.w += int(a.line);
            if ((c.e += ROWS) >= c.plans) c.e -= c.plans, c.x += 64, c.w += int(a.line) * (int(a.g.taps) - c.plans / ROWS);
            if (c.rest) {
                fetch<0>(c.e, c.x, taken);
                weigh(c.copied ? c.copied - SLAB : (STAGES - 1) * SLAB, c.w);
            }
            copies_group();
        }
        if constexpr (PRODUCTS == AFTER) multiplied<P>(c, left, sum);
        if constexpr (P + 1 < PARTS) parts<P + 1, PRODUCTS>(c, taken, value, left, sum);
    }

    template <int PRODUCTS> __device__ __forceinline__ void step(Course& c, Taken& taken, float (&sum)[8][2][4]) const {
        Quad left[4];
        float value[VECTOR];
        if (ALTERNATE && PRODUCTS == AFTER && warp / 4 % 2) parts<0, BEFORE>(c, taken, value, left, sum);
        else parts<0, PRODUCTS>(c, taken, value, left, sum);
        copies_done<1>();
        __syncthreads();
        c.sampled ^= SAMPLES;
        c.copied = c.copied == (STAGES - 1) * SLAB ? 0 : c.copied + SLAB;
    }

    // Channels from `begin` (of all groups) to `end`, of one offset group; `count` taps that are planned from `tap` on.
    __device__ __forceinline__ void convolve(int begin, int end, int tap, int count, float (&sum)[8][2][4]) const {
        const char* x = static_cast<const char*>(a.images) + (begin + lane % 4 * VECTOR) * int(sizeof(T));
        const int w = (begin / CHANNELS * int(a.g.taps) + tap) * int(a.line) + output * 4 + int(threadIdx.x);
        const int steps = (end - begin) / CHANNELS * count;
        Course c{count * ROWS, warp * (PARTS / EACH * 8) + lane / 4, x, w, steps - 1, 0, (STAGES - 1) * SLAB};
        Taken taken;
        weigh(0, c.w);
        copies_group();
        fetch<0>(c.e, x, taken);
        step<NONE>(c, taken, sum);
#pragma unroll 1
        while (c.rest > 0) --c.rest, step<AFTER>(c, taken, sum);
        Quad left[4];
        read_slab(c.copied, left);
        products<0, 8>(c.sampled ^ SAMPLES, left, sum);
    }

    // 64 rows x LINE outputs of a warp, side by side along the output's last axis.
    template <int V> __device__ __forceinline__ void write(const T* staged, int row, int first, int group) const {
        const int length = a.last ? int(LINE) : 64, pitch = length + VECTOR, vectors = length / V;
        const int outputs = int(a.outputs), positions = int(a.g.positions);
        const int64_t all = a.groups * a.outputs;
#pragma unroll 1
        for (int e = lane; e < 64 * LINE / V; e += 32) {
            const int line = e / vectors, i = e % vectors * V;
            const int r = row + (a.last ? line : i), o = first + (a.last ? i : line);
            if (r >= int(a.end) || o >= outputs) continue;
            const int channel = group * outputs + o;
            const int64_t to = a.last ? r * all + channel : (r / positions * all + channel) * positions + r % positions;
            Pack<T, V>::load(staged + line * pitch + i).store(static_cast<T*>(a.out) + to);
        }
    }

    __device__ __forceinline__ void finish(int row, int group, const float (&sum)[8][2][4]) const {
        __syncthreads();
        T* const staged = reinterpret_cast<T*>(&at) + warp * STAGED;
        const T* bias = a.bias ? static_cast<const T*>(a.bias) + group * a.outputs : nullptr;
        const int pitch = (a.last ? int(LINE) : 64) + VECTOR, across = a.last ? pitch : 1, down = a.last ? 1 : pitch;
        const int own = output + warp % ACROSS * 32;
        row += warp / ACROSS * 64;
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // 8s of outputs
            const int in = i % (LINE / 8) * 8 + lane / 4, o = own + i * 8 + lane / 4;
            const float shift = bias && o < a.outputs ? float(bias[o]) : 0.0f;
#pragma unroll
            for (int r = 0; r < 16; ++r)
                staged[(r / 2 * 8 + lane % 4 * 2 + r % 2) * across + in * down] = T(sum[r / 2][i / 2][i % 2 * 2 + r % 2] + shift);
            if ((i + 1) % (LINE / 8)) continue;
            __syncwarp();
            const int first = own + i / (LINE / 8) * LINE;
            if (a.whole) write<VECTOR>(staged, row, first, group);
            else write<1>(staged, row, first, group);
            __syncwarp();
        }
    }
};

// kernel: fused args=fused_args threads=512 registers=128
// instances: T = half_t | bf16_t | float; R = 1 | 2; ROWS,OUTPUTS = 128,256 | 64,256 | 128,128
// instances: T = half_t | bf16_t; R = 3; ROWS,OUTPUTS = 128,256 | 64,256 | 128,128
// threads: *,*,64 = 256
// threads: *,*,128,128 = 256
// registers: *,*,64 = 200
// sass: = HMMA LDG.E.128
template <class T, int R, int ROWS, int OUTPUTS> __device__ void fused(const fused_args& a) {
    using F = Fused<T, R, ROWS, OUTPUTS>;
    PYD_SHARED(typename F::Shared, shared);
    const int row = int(a.first) + int(blockIdx.x) * ROWS, output = int(blockIdx.y) * OUTPUTS, group = int(blockIdx.z);
    F f{a, *shared, int(threadIdx.x % 32), int(threadIdx.x / 32), output};
    float sum[8][2][4];  // 8s of rows, 16s of outputs
#pragma unroll
    for (int i = 0; i < 64; ++i) sum[i / 8][i / 4 % 2][i % 4] = 0;
    // Channels of one offset group and taps of one chunk at a time. What follows from these two is
    // found after the plan, not kept meanwhile: registers are few while sums are held.
    const int first = group * int(a.of_group), behind = first + int(a.of_group), width = int(a.width), taps = int(a.g.taps);
#pragma unroll 1
    for (int offset_group = first / width; offset_group * width < behind; ++offset_group)
#pragma unroll 1
        for (int tap = 0; tap < taps; tap += int(a.chunk)) {
            f.plan(row, offset_group, tap, min(int(a.chunk), taps - tap));
            __syncthreads();
            const int here = as_unknown(offset_group);
            const int begin = max(first, here * width), end = min(behind, (here + 1) * width);
            f.convolve(begin, end, tap, min(int(a.chunk), taps - tap), sum);
        }
    f.finish(row, group, sum);
}
