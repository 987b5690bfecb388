// Deformable convolution as one matrix product on tensor cores (CUDA, sm_80 and later), whose left
// operand is sampled on the way: out[row, o] = sum over (channel, tap) of columns * w.
//
// A block has 128 rows (output positions) and 64 * ACROSS outputs, a warp 64 x 64 of them. K goes by
// slabs: 4 lanes' 16-byte loads of channels (32 of 16 bits, 16 of float), one tap. Within a slab K is
// permuted, for both operands alike, so that what a lane t = lane % 4 loads is what mma wants of it:
// m16n8k16, step s of 2: k = {2t, 2t+1, 2t+8, 2t+9} are channels 8t + 4s + {0, 1, 2, 3};
// m16n8k8,  step s of 2: k = {t, t+4}               are channels 4t + 2s + {0, 1}.
// So samples go to shared memory as fragments, and weights need no order of their own: a slab is a
// plain matrix [outputs][channels], 16 bytes of it a lane's fragments of both steps.
//
// Taps go inside of slabs of channels: neighbouring taps read the same pixels, which a slab's few
// bytes of each keep in the L1 cache.
#include "_types.cuh"
#include "_stencil.cuh"

// Weights [Co, C/g, K] as the slabs that the blocks read: [g, slab, K, outputs, channels of a slab],
// with zeros for the outputs up to a whole number of tiles.
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
    constexpr int CHANNELS = 64 / sizeof(T);
    const int64_t step = int64_t(gridDim.x) * blockDim.x, total = a.groups * a.channels * a.taps * a.padded;
    for (int64_t e = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; e < total; e += step) {
        const int64_t output = e / CHANNELS % a.padded, tap = e / CHANNELS / a.padded % a.taps;
        const int64_t slab = e / CHANNELS / a.padded / a.taps;  // of all groups
        const int64_t channel = slab * CHANNELS + e % CHANNELS, group = channel / a.channels;
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
    int64_t groups, outputs, padded;  // of the product: groups, outputs of one, those with zeros
    int64_t of_group, width;  // channels of a group and of an offset group
    int64_t spans;            // offset groups that a group has channels of, at most
    int64_t chunk, chunks;    // taps that are planned at a time, and how often
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

// A row r of the fragments of both steps: two registers of four of each.
template <class T> __device__ __forceinline__ void to_fragments(const float (&s)[8], int r, Quad (&a)[2]) {
    a[0].v[r] = pack2<T>(s[0], s[1]), a[0].v[r + 2] = pack2<T>(s[2], s[3]);
    a[1].v[r] = pack2<T>(s[4], s[5]), a[1].v[r + 2] = pack2<T>(s[6], s[7]);
}
template <class T> __device__ __forceinline__ void to_fragments(const float (&s)[4], int r, Quad (&a)[2]) {
    a[0].v[r] = to_tf32(s[0]), a[0].v[r + 2] = to_tf32(s[1]);
    a[1].v[r] = to_tf32(s[2]), a[1].v[r + 2] = to_tf32(s[3]);
}

template <class T> __device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (sizeof(T) == 2) mma_16816<T>(d, a, b);
    else mma_1688_tf32(d, a, b);
}

// What a block holds in shared memory, and its part in the work.
template <class T, int R, int ACROSS> struct Fused {
    enum {
        N = 1 << R,
        ROWS = 128, OUTPUTS = 64 * ACROSS, THREADS = 64 * ACROSS,
        VECTOR = 16 / sizeof(T), CHANNELS = 4 * VECTOR,
        PLANS = ROWS * (R == 1 ? 16 : R == 2 ? 9 : 5),
        BLOCKS = ROWS / 16,                // of rows, a fragment each
        MINE = BLOCKS / (2 * ACROSS),      // of those, what a warp samples
        FETCHED = R == 2 ? 4 : 2,          // corners of a row that are read at a time
        LEFT = BLOCKS * 2 * 32,            // quads of a stage: fragments of samples
        RIGHT = OUTPUTS * 4,               // and of weights
        LINE = 64 / sizeof(T),             // outputs of a warp that are written at a time
        STAGED = 64 * (LINE + VECTOR),     // elements that this takes, with gaps against bank conflicts
    };

    const fused_args& a;
    // Behind one another in shared memory, at places that are known to the compiler.
    struct Shared {
        Quad left[2 * LEFT], right[2 * RIGHT];
        Pack<float, N> weights[PLANS];  // [taps of a chunk, ROWS]
        Pack<int, N> pixels[PLANS];     // of all images, -1 for none
        float scales[PLANS];
    };

    Shared& at;
    int lane, warp, output;  // output: the block's first of its group

    // Samples of `count` taps from `tap` on, of the block's rows. Neighbouring threads: positions.
    __device__ __forceinline__ void plan(int row, int offset_group, int tap, int count) {
#pragma unroll 1
        for (int e = threadIdx.x; e < count * ROWS; e += THREADS) {
            const int r = row + e % ROWS, t = tap + e / ROWS;
            Pack<float, N> weight;
            Pack<int, N> pixel;
            float scale = 0;
#pragma unroll
            for (int b = 0; b < N; ++b) pixel.v[b] = -1, weight.v[b] = 0;
            if (r < int(a.end)) {
                const Row<int, R> of = make_row<int, R>(a.g, r);
                const Part<int, R> whole = part_of_tap<int, R>(a.g, PYD_NO_TABLE, t);
                const Sample<float, int, R> sample = make_sample<float, int, R>(a.g, PYD_NO_TABLE, whole, of, offset_group, t);
                scale = field_at<float, int>(a.mask, of.image, of.position, offset_group, t);
                if (sample.nan) scale = not_a_number(0.0f);
#pragma unroll
                for (int b = 0; b < N; ++b) {
                    const int at_corner = corner_pixel<float, int, R, false>(whole, sample, b);
                    const float by = corner_weight<float, int, R, false>(sample, 0, b);
                    if (at_corner >= 0 && by != 0) pixel.v[b] = of.image * int(a.g.pixels) + at_corner, weight.v[b] = by;
                }
            }
            at.pixels[e] = pixel, at.weights[e] = weight, at.scales[e] = scale;
        }
    }

    // Of row e of the plans, corners `first` up to first + FETCHED: what is not to be read is 0.
    __device__ __forceinline__ void fetch(int e, int first, int channel, Quad (&corners)[FETCHED]) const {
        const T* x = static_cast<const T*>(a.images) + (channel + lane % 4 * VECTOR);
        const Pack<int, FETCHED> pixel = Pack<int, FETCHED>::load(at.pixels[e].v + first);
#pragma unroll
        for (int b = 0; b < FETCHED; ++b) {
#pragma unroll
            for (int v = 0; v < 4; ++v) corners[b].v[v] = 0;
            const T* from = x + int64_t(pixel.v[b]) * int(a.g.channels);
            if (pixel.v[b] >= 0) corners[b] = Quad::load(reinterpret_cast<const unsigned*>(from));
        }
    }

    __device__ __forceinline__ void blend(int e, int first, const Quad (&corners)[FETCHED], float (&value)[VECTOR]) const {
        const Pack<float, FETCHED> weight = Pack<float, FETCHED>::load(at.weights[e].v + first);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] = first ? value[v] : 0.0f;
#pragma unroll
        for (int b = 0; b < FETCHED; ++b)
#pragma unroll
            for (int v = 0; v < 4; ++v) add_channels<T>(corners[b].v[v], weight.v[b], value + v * (VECTOR / 4));
        if (first + FETCHED < N) return;
        const float scale = at.scales[e];
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] *= scale;
    }

    // Parts from P on of a step: while products of this step go on, some corners of one row of the next
    // are on their way. Where nothing is multiplied, only the samples are taken.
    template <int P, bool PRODUCTS>
    __device__ __forceinline__ void parts(int stage, int t, int channel, const Quad (&b)[8], float (&value)[VECTOR],
                                          Quad (&fragments)[2], float (&sum)[4][8][4]) const {
        constexpr int EACH = N / FETCHED, PARTS = MINE * 2 * EACH, UNITS = 8 / PARTS;
        constexpr int ROW = P / EACH % 2, BLOCK = P / EACH / 2, FIRST = P % EACH * FETCHED;
        const int block = warp * MINE + BLOCK, e = t * ROWS + block * 16 + lane / 4 + ROW * 8;
        // Without this the compiler starts many reads at once, and registers run out.
        if (R == 3) __syncwarp();
        Quad corners[FETCHED];
        fetch(e, FIRST, channel, corners);
        if constexpr (PRODUCTS) products<P * UNITS, (P + 1) * UNITS>(stage ^ 1, b, sum);
        blend(e, FIRST, corners, value);
        if constexpr (FIRST + FETCHED == N) to_fragments<T>(value, ROW, fragments);
        if constexpr (FIRST + FETCHED == N && ROW) {
            Quad* to = at.left + stage * LEFT + block * 64 + lane;
            to[0] = fragments[0], to[32] = fragments[1];
        }
        if constexpr (P + 1 < PARTS) parts<P + 1, PRODUCTS>(stage, t, channel, b, value, fragments, sum);
    }

    // The samples of tap t of the plans to a stage, and all products of the other one.
    template <bool PRODUCTS> __device__ __forceinline__ void step(int stage, int t, int channel, float (&sum)[4][8][4]) const {
        Quad b[8], fragments[2];
        float value[VECTOR];
        if constexpr (PRODUCTS) read_right(stage ^ 1, b);
        parts<0, PRODUCTS>(stage, t, channel, b, value, fragments, sum);
    }

    // A tap of a slab of weights; channels count over all groups.
    __device__ __forceinline__ void weigh(int stage, int channel, int tap) const {
        const int line = channel / CHANNELS * int(a.g.taps) + tap;
        const T* from = static_cast<const T*>(a.weight) + (int64_t(line) * int(a.padded) + output) * CHANNELS + threadIdx.x * VECTOR;
#pragma unroll
        for (int i = 0; i < RIGHT; i += THREADS) copy_async(at.right + stage * RIGHT + threadIdx.x + i, from + i * VECTOR);
    }

    __device__ __forceinline__ void read_right(int stage, Quad (&b)[8]) const {
        const Quad* from = at.right + stage * RIGHT + warp % ACROSS * 256 + lane;
#pragma unroll
        for (int n = 0; n < 8; ++n) b[n] = from[n * 32];
    }

    // Products of the warp's 4 blocks of rows and 2 steps, from unit FROM of those 8 up to TO.
    template <int FROM, int TO>
    __device__ __forceinline__ void products(int stage, const Quad (&b)[8], float (&sum)[4][8][4]) const {
        const Quad* from = at.left + stage * LEFT + warp / ACROSS * 256 + lane;
#pragma unroll
        for (int u = FROM; u < TO; ++u) {
            const Quad fragment = from[u * 32];
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const unsigned column[2] = {b[n].v[u % 2 * 2], b[n].v[u % 2 * 2 + 1]};
                multiply<T>(sum[u / 2][n], fragment.v, column);
            }
        }
    }

    __device__ __forceinline__ void last_step(int stage, float (&sum)[4][8][4]) const {
        Quad b[8];
        read_right(stage, b);
        products<0, 8>(stage, b, sum);
    }

    // Channels from `begin` to `end` (of one offset group), `count` taps that are planned from `tap` on.
    __device__ __forceinline__ void convolve(int begin, int end, int tap, int count, float (&sum)[4][8][4]) const {
        const int steps = (end - begin) / CHANNELS * count;
        weigh(0, begin, tap);
        step<false>(0, 0, begin, sum);
        copies_done();
        __syncthreads();
#pragma unroll 1
        for (int i = 1, t = 0, channel = begin; i < steps; ++i) {
            if (++t == count) t = 0, channel += CHANNELS;
            weigh(i & 1, channel, tap + t);
            step<true>(i & 1, t, channel, sum);
            copies_done();
            __syncthreads();
        }
        last_step(steps & 1 ^ 1, sum);
        __syncthreads();
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

    __device__ __forceinline__ void finish(int row, int group, const float (&sum)[4][8][4]) const {
        T* const staged = reinterpret_cast<T*>(at.left) + warp * STAGED;
        const T* bias = a.bias ? static_cast<const T*>(a.bias) + group * a.outputs : nullptr;
        const int pitch = (a.last ? int(LINE) : 64) + VECTOR, across = a.last ? pitch : 1, down = a.last ? 1 : pitch;
        const int own = output + warp % ACROSS * 64;
        row += warp / ACROSS * 64;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const int in = n % (LINE / 8) * 8 + lane % 4 * 2, o = own + n * 8 + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float shift = bias && o + j < a.outputs ? float(bias[o + j]) : 0.0f;
#pragma unroll
                for (int m = 0; m < 8; ++m)
                    staged[(m * 8 + lane / 4) * across + (in + j) * down] = T(sum[m / 2][n][m % 2 * 2 + j] + shift);
            }
            if ((n + 1) % (LINE / 8)) continue;
            __syncwarp();
            const int first = own + n / (LINE / 8) * LINE;
            if (a.whole) write<VECTOR>(staged, row, first, group);
            else write<1>(staged, row, first, group);
            __syncwarp();
        }
    }
};

// kernel: fused args=fused_args threads=256 registers=255
// instances: T = half_t | bf16_t | float; R = 1 | 2; ACROSS = 2 | 4
// instances: T = half_t | bf16_t; R = 3; ACROSS = 4
// sass: = HMMA LDG.E.128
template <class T, int R, int ACROSS> __device__ void fused(const fused_args& a) {
    using F = Fused<T, R, ACROSS>;
    PYD_SHARED(typename F::Shared, shared);
    const int row = int(a.first) + int(blockIdx.x) * F::ROWS, output = int(blockIdx.y) * F::OUTPUTS, group = int(blockIdx.z);
    F f{a, *shared, int(threadIdx.x % 32), int(threadIdx.x / 32), output};
    float sum[4][8][4];
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[m][n][i] = 0;
    // Channels of one offset group and taps of one chunk at a time. One counter says which: registers
    // are few while sums are held.
#pragma unroll 1
    for (int phase = 0; phase < int(a.spans * a.chunks); ++phase) {
        const int first = group * int(a.of_group), width = int(a.width);
        const int offset_group = first / width + phase / int(a.chunks), tap = phase % int(a.chunks) * int(a.chunk);
        const int begin = max(first, offset_group * width);
        const int end = min(first + int(a.of_group), (offset_group + 1) * width), count = min(int(a.chunk), int(a.g.taps) - tap);
        if (begin >= end) continue;
        f.plan(row, offset_group, tap, count);
        __syncthreads();
        f.convolve(begin, end, tap, count, sum);
    }
    f.finish(row, group, sum);
}
