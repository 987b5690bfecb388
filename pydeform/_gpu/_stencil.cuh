// Where a sample reads and with which weights, as in pydeform/_ref/stencil.py: the operators S_alpha.
//
// A coordinate is kept split, p = i + f with i = base + floor(offset) an exact integer and
// f = offset - floor(offset). Along one axis a sample touches the pixels at - 1, at and at + 1: its
// value those at `at` and `at + 1`, its slope also the one before where a kink takes the mean of
// both sides. A pixel that is not to be read has weight 0.
#pragma once

enum { ZEROS, CLIP_ZERO, BORDER };  // what lies beyond the border
enum { RIGHT, OPEN, MEAN };         // which slope a kink has

// A convolution without its arrays; of the axes, the first R count. Columns, chunks of rows and
// positions are addressed with it by every kernel, so it opens every argument struct.
struct Geometry {
    int64_t batch, channels, groups, taps, pixels, positions;
    int64_t size[3], out[3], kernel[3], stride[3], pad[3], dilation[3], upscale[3];
    int64_t mode, kink, absolute;
    // Numbers of the working type per (image, offset group, tap, axis, position), with strides.
    const void* offset;
    int64_t offset_image, offset_channel, offset_position;
};

// One number per (image, offset group and tap, position), of any strides: a mask, or its like.
struct Field {
    const void* data;  // null for 1 everywhere
    int64_t image, channel, position;
};

template <class A> __device__ __forceinline__ A field_at(const Field& f, int64_t image, int64_t channel, int64_t position) {
    return f.data ? static_cast<const A*>(f.data)[image * f.image + channel * f.channel + position * f.position] : A(1);
}

template <class A, class I> struct Axis {
    I at;
    A value[2];  // of at and at + 1
    A slope[3];  // of at - 1, at and at + 1
};

template <class A, class I, int R> struct Sample {
    Axis<A, I> axis[R];
    bool nan;    // some coordinate is: the sample is NaN, and scatters nothing
    bool alive;  // all coordinates are finite
};

// Indices are `int` where nothing passes 2^29, so that base + floor(offset) fits whatever the offset.
__device__ __forceinline__ float far_away(int) { return 1073741824.0f; }                // 2^30
__device__ __forceinline__ double far_away(int64_t) { return 9007199254740992.0; }      // 2^53

template <class A, class I> __device__ __forceinline__ A rise(I cell, I size, bool zeros) {
    return zeros || (cell >= 0 && cell <= size - 2) ? A(1) : A(0);
}

template <class A, class I>
__device__ __forceinline__ Axis<A, I> make_axis(A offset, I base, I size, int mode, int kink, bool* outside) {
    const A limit = A(far_away(I(0)));
    A whole = floor(offset);
    const A f = offset - whole;
    whole = whole > limit ? limit : whole < -limit ? -limit : whole;
    const I i = base + I(whole);
    const bool zeros = mode == ZEROS;
    Axis<A, I> axis;
    A near = 1 - f, far = f;
    if (!zeros) {
        if (i < 0 || i >= size - 1) near = 1, far = 0;
        if (mode == CLIP_ZERO && (i < 0 || i >= size)) near = 0;
    }
    A right = rise<A>(i, size, zeros), left = 0;
    if (kink == MEAN && f == 0) {
        right *= A(0.5);
        left = A(0.5) * rise<A>(I(i - 1), size, zeros);
    }
    *outside = *outside || i < -1 || (i == -1 && f == 0) || i >= size;
    const I low = zeros ? -1 : 0, high = zeros ? size : size - 1;
    axis.at = i < low ? low : i > high ? high : i;
    axis.value[0] = axis.at >= 0 && axis.at < size && (!zeros || axis.at == i) ? near : A(0);
    axis.value[1] = axis.at + 1 < size && (!zeros || axis.at == i) ? far : A(0);
    axis.slope[0] = i >= 1 && i - 1 < size ? -left : A(0);
    axis.slope[1] = i >= 0 && i < size ? left - right : A(0);
    axis.slope[2] = i >= -1 && i + 1 < size ? right : A(0);
    return axis;
}

// The sample of one tap of one offset group at one position of an image.
template <class A, class I, int R>
__device__ __forceinline__ Sample<A, I, R> make_sample(const Geometry& g, I image, I group, I tap, I position) {
    const A* offset = static_cast<const A*>(g.offset);
    I q[R], k[R];
    I rest = position, left = tap;
#pragma unroll
    for (int d = R - 1; d >= 0; --d) {
        q[d] = rest % I(g.out[d]), rest /= I(g.out[d]);
        k[d] = left % I(g.kernel[d]), left /= I(g.kernel[d]);
    }
    Sample<A, I, R> sample;
    sample.nan = false, sample.alive = true;
    bool outside = false;
#pragma unroll
    for (int d = 0; d < R; ++d) {
        A move = 0;
        if (offset) {
            const int64_t channel = (int64_t(group) * g.taps + tap) * R + d;
            move = offset[image * g.offset_image + channel * g.offset_channel + position * g.offset_position];
        }
        // Compared, not cast: a NaN is unequal to itself, an infinity minus itself is a NaN.
        const bool finite = move - move == 0;
        sample.nan = sample.nan || move != move;
        sample.alive = sample.alive && finite;
        const I base = g.absolute ? I(0)
            : q[d] / I(g.upscale[d]) * I(g.stride[d]) - I(g.pad[d]) + k[d] * I(g.dilation[d]);
        sample.axis[d] = make_axis<A, I>(finite ? move : A(0), base, I(g.size[d]), int(g.mode), int(g.kink), &outside);
    }
#pragma unroll
    for (int d = 0; d < R; ++d) {
        Axis<A, I>& axis = sample.axis[d];
        if (!sample.alive) axis.value[0] = axis.value[1] = 0;
        if (!sample.alive || (g.kink == OPEN && outside)) axis.slope[0] = axis.slope[1] = axis.slope[2] = 0;
    }
    return sample;
}

// Corners: the tensor product of two pixels an axis, or of three (WIDE) where a kink takes means.
template <int R, bool WIDE> __device__ constexpr int corner_count() {
    return WIDE ? (R == 1 ? 3 : R == 2 ? 9 : 27) : 1 << R;
}

// Which of the three pixels of axis d, counted from -1, corner b is.
template <int R, bool WIDE> __device__ __forceinline__ int digit(int b, int d) {
    if (!WIDE) return (b >> (R - 1 - d) & 1) + 1;
    int divisor = 1;
    for (int e = R - 1; e > d; --e) divisor *= 3;
    return b / divisor % 3;
}

// The weight of corner b in S_alpha; bit d of alpha says that axis d is differentiated.
template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ A corner_weight(const Sample<A, I, R>& sample, int alpha, int b) {
    A weight = 1;
#pragma unroll
    for (int d = 0; d < R; ++d) {
        const Axis<A, I>& axis = sample.axis[d];
        const int j = digit<R, WIDE>(b, d);
        const A value = j == 0 ? A(0) : j == 1 ? axis.value[0] : axis.value[1];
        const A slope = j == 0 ? axis.slope[0] : j == 1 ? axis.slope[1] : axis.slope[2];
        weight *= alpha >> d & 1 ? slope : value;
    }
    return weight;
}

// The pixel of corner b, or -1 where it lies outside.
template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ I corner_pixel(const Geometry& g, const Sample<A, I, R>& sample, int b) {
    I pixel = 0;
    bool inside = true;
#pragma unroll
    for (int d = 0; d < R; ++d) {
        const I at = sample.axis[d].at + digit<R, WIDE>(b, d) - 1;
        inside = inside && at >= 0 && at < I(g.size[d]);
        pixel = pixel * I(g.size[d]) + at;
    }
    return inside ? pixel : I(-1);
}

// sum over terms of coefficient * S_alpha, up to one term for the value and one an axis. The factor
// of a lone term is kept apart, so that infinities meet it as in the formulas.
struct Terms {
    int64_t count;
    int64_t alpha[4];
    Field factor[4];
};

template <class A, class I, int R>
__device__ __forceinline__ void read_factors(const Terms& terms, const Geometry& g, I image, I group, I tap, I position, A (&factor)[4]) {
    const int64_t channel = int64_t(group) * g.taps + tap;
#pragma unroll
    for (int t = 0; t < 4; ++t) factor[t] = t < terms.count ? field_at<A>(terms.factor[t], image, channel, position) : A(0);
}

template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ A terms_weight(const Terms& terms, const Sample<A, I, R>& sample, const A (&factor)[4], int b) {
    A weight = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
        if (t >= terms.count) continue;
        const A corner = corner_weight<A, I, R, WIDE>(sample, int(terms.alpha[t]), b);
        if (corner != 0) weight += factor[t] * corner;  // whatever the factor, what is not read is 0
    }
    return weight;
}

__device__ __forceinline__ float not_a_number(float) { return nanf(""); }
__device__ __forceinline__ double not_a_number(double) { return nan(""); }

// All that a block has to know of one sample to read it: taken once, used by all of its channels.
template <class A, class I, int N> struct Plan {
    I pixel[N];   // an index where the weight is not 0
    A weight[N];
    A scale;      // NaN for a NaN sample
    I image;
};

template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ void make_plan(const Geometry& g, const Terms& terms, I image, I group, I tap, I position,
                                          Plan<A, I, corner_count<R, WIDE>()>& plan) {
    const Sample<A, I, R> sample = make_sample<A, I, R>(g, image, group, tap, position);
    A factor[4];
    read_factors<A, I, R>(terms, g, image, group, tap, position, factor);
    plan.image = image;
    plan.scale = terms.count == 1 ? factor[0] : A(1);
    if (terms.count == 1) factor[0] = 1;
    if (sample.nan) plan.scale = not_a_number(A(0));
#pragma unroll
    for (int b = 0; b < corner_count<R, WIDE>(); ++b) {
        const I pixel = corner_pixel<A, I, R, WIDE>(g, sample, b);
        plan.pixel[b] = pixel < 0 ? 0 : pixel;
        plan.weight[b] = pixel < 0 ? A(0) : terms_weight<A, I, R, WIDE>(terms, sample, factor, b);
    }
}
