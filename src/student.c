/* The student's forward pass on a CPU: luma and thermal in grey levels in, fused luma in grey levels out.
 *
 * The same network as Student.forward in fusionproxy_ros/fusion/network.py, whose names and formulas are used here; fusion/cpu.py
 * packs its weights. Written for this one network because a general runtime spends most of its time between the
 * layers: here nothing is allocated, reordered or converted at full resolution, and one team of threads works through
 * all layers.
 *
 * And the colour picture that its answer makes of RGB, by the formula of colour.py.
 *
 * Features lie as [row][column][channel], with a border of one zero pixel, channels padded by zeros to multiples of 8.
 * Every output is the sum of the same terms in the same order, whatever the number of threads.
 */

#if !defined(VARIANT) /* the outer pass: this file again, once for each instruction set */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define SUMS 2 /* of a row: weight * thermal, weight */
#define LIT 70 /* this and the next two as in colour.py */
#define DARK 35
#define RISE 50

#define VECTOR_OF(n)                                          \
    typedef float vec##n __attribute__((vector_size(4 * n))); \
    typedef float loose##n __attribute__((vector_size(4 * n), aligned(4), may_alias));
VECTOR_OF(4)
VECTOR_OF(8)
VECTOR_OF(16)

/* One convolution. weight: [block][tap][input][output], blocks of 16 outputs while there are as many, then of 8. */
typedef struct {
    int32_t inputs, outputs;
    const float *weight, *bias;
} Layer;

typedef struct {
    Layer stem, down8, enc8, down16, enc16, context0, context2, dec16, up8, dec8, up4, dec4, head;
} Student;

/* One image's features, (rows + 2) x (columns + 2) x channels; `at` is the first pixel inside the border. */
typedef struct {
    int rows, columns, channels;
    size_t stride; /* floats from row to row */
    float *at;
} Map;

static size_t map_floats(int rows, int columns, int channels) {
    return (size_t)(rows + 2) * (columns + 2) * channels;
}

static Map take(float **space, int rows, int columns, int channels) {
    Map map = {rows, columns, channels, (size_t)(columns + 2) * channels, NULL};
    map.at = *space + map.stride + channels;
    *space += map_floats(rows, columns, channels);
    return map;
}

static int multiple_of_16(int extent) { return (extent + 15) / 16 * 16; }

#define VARIANT base
#define WIDEST 4 /* floats that a register holds: of SSE, of NEON */
#include "student.c"
#undef VARIANT

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#undef WIDEST
#define WIDEST 8
#include "student.c"
#undef VARIANT
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define VARIANT avx512
#undef WIDEST
#define WIDEST 16
#include "student.c"
#undef VARIANT
#pragma GCC pop_options
#endif

/* Floats that student_fuse_... needs to work in, for pictures of this size; to be zeros at the first use for a size. */
size_t student_workspace(const Student *s, int height, int width) {
    int rows = multiple_of_16(height) / 4, columns = multiple_of_16(width) / 4;
    size_t floats = map_floats(rows, columns, s->stem.outputs) + map_floats(rows, columns, s->dec4.outputs);
    floats += 2 * map_floats(rows / 2, columns / 2, s->enc8.outputs) +
              2 * map_floats(rows / 4, columns / 4, s->enc16.outputs);
    return floats + (size_t)SUMS * height + 16 * (size_t)rows * columns + 3 * (size_t)s->enc16.outputs;
}

/* The fastest variant of student_fuse_... that this processor runs. */
const char *student_variant(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                   ? "avx512"
                   : "avx2";
#endif
    return "base";
}

#elif !defined(BLOCK) /* the inner pass: everything that is worth an instruction set of its own */

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(JOIN(name, _), VARIANT)
#define INLINE static inline __attribute__((always_inline))

/* Of outputs that share their inputs, 16 as long as there are so many, then 8. */
#define BLOCK 8
#if WIDEST < 8
#define WIDTH WIDEST
#else
#define WIDTH 8
#endif
#include "student.c"
#undef BLOCK
#undef WIDTH
#define BLOCK 16
#define WIDTH WIDEST
#include "student.c"
#undef BLOCK
#undef WIDTH

/* One row of outputs: `taps` x `taps` taps lie `row` floats apart downwards and `tap` to the right; `in` is the first
 * of the first pixel, whose neighbour's lies `pixel` floats further. */
static void NAME(row)(const float *in, size_t row, int tap, int taps, int inputs, int pixel, const Layer *layer,
                      int relu, int columns, float *out) {
    const float *w = layer->weight;
    int o = 0;
    for (; o + 16 <= layer->outputs; o += 16, w += 16 * taps * taps * inputs)
        NAME(block16)(in, row, tap, taps, inputs, pixel, w, layer->bias + o, relu, columns, out + o, layer->outputs);
    for (; o < layer->outputs; o += 8, w += 8 * taps * taps * inputs)
        NAME(block8)(in, row, tap, taps, inputs, pixel, w, layer->bias + o, relu, columns, out + o, layer->outputs);
}

/* A 3x3 convolution, and its ReLU, by the whole team. */
static void NAME(convolve)(const Layer *layer, Map in, int stride, Map out) {
#pragma omp for schedule(static)
    for (int y = 0; y < out.rows; y++)
        NAME(row)(in.at + (y * stride - 1) * (ptrdiff_t)in.stride - in.channels, in.stride, in.channels, 3,
                  in.channels, stride * in.channels, layer, 1, out.columns, out.at + y * out.stride);
}

/* fine += the 1x1 convolution of `coarse`, each of its pixels four times. */
static void NAME(raise)(const Layer *layer, Map coarse, Map fine) {
    float raised[coarse.columns * layer->outputs];
#pragma omp for schedule(static)
    for (int y = 0; y < coarse.rows; y++) {
        NAME(row)(coarse.at + y * coarse.stride, 0, 0, 1, coarse.channels, coarse.channels, layer, 0,
                  coarse.columns, raised);
        for (int half = 0; half < 2; half++)
            for (int x = 0; x < fine.columns; x++) {
                float *to = fine.at + (2 * y + half) * fine.stride + x * fine.channels;
                const float *from = raised + x / 2 * fine.channels;
                for (int c = 0; c < fine.channels; c += LANES) *(loose8 *)(to + c) += *(const loose8 *)(from + c);
            }
    }
}

/* A fully connected layer: outputs = bias + weight x inputs. */
static void NAME(connect)(const Layer *layer, const float *in, int relu, float *out) {
    NAME(row)(in, 0, 0, 1, layer->inputs, 0, layer, relu, 1, out);
}

/* A row of the sources in [0, 1], thermal centred and weighted; its last pixel again up to `padded`. */
INLINE void NAME(sources)(const uint8_t *luma, const uint8_t *thermal, const float *weight, float mean, int width,
                          int padded, float *y, float *t) {
    for (int x = 0; x < width; x++) {
        y[x] = luma[x] / 255.0f;
        t[x] = thermal[x] / 255.0f - mean;
    }
    if (weight)
        for (int x = 0; x < width; x++) t[x] *= weight[x];
    for (int x = width; x < padded; x++) y[x] = y[width - 1], t[x] = t[width - 1];
}

/* Twice as wide, bilinear. */
INLINE void NAME(widen)(const float *half, int columns, float *out) {
    out[0] = half[0];
    for (int x = 0; x < columns - 1; x++) {
        out[2 * x + 1] = 0.75f * half[x] + 0.25f * half[x + 1];
        out[2 * x + 2] = 0.25f * half[x] + 0.75f * half[x + 1];
    }
    out[2 * columns - 1] = half[columns - 1];
}

INLINE float NAME(cut)(float value, float most) {
    value = value > 0 ? value : 0;
    return value < most ? value : most;
}

/* A row of the colour picture that has the luma `fused`, in grey levels. */
INLINE void NAME(paint)(const uint8_t *rgb, const uint8_t *luma, const float *fused, int width, uint8_t *restrict out) {
    uint8_t plane[3][width], dark[width];
    float kept[width], value[width];
    for (int x = 0; x < width; x++)
        plane[0][x] = rgb[3 * x], plane[1][x] = rgb[3 * x + 1], plane[2][x] = rgb[3 * x + 2];
    for (int x = 0; x < width; x++) {
        const uint8_t a = plane[0][x], b = plane[1][x], c = plane[2][x], more = a > b ? a : b, most = more > c ? more : c;
        const uint8_t below = LIT - (most < LIT ? most : LIT);
        dark[x] = below < LIT - DARK ? below : LIT - DARK;
    }
    /* A loop for each step, or compilers make branches of it. */
    for (int x = 0; x < width; x++) kept[x] = NAME(cut)(fused[x] - luma[x], RISE);
    for (int x = 0; x < width; x++) kept[x] = 1 - dark[x] * kept[x] * (1.0f / ((LIT - DARK) * RISE));
    for (int c = 0; c < 3; c++) {
        for (int x = 0; x < width; x++) value[x] = NAME(cut)(fused[x] + kept[x] * (plane[c][x] - luma[x]), 255);
        for (int x = 0; x < width; x++) plane[c][x] = (uint8_t)(int)(value[x] + 0.5f);
    }
    for (int x = 0; x < width; x++)
        out[3 * x] = plane[0][x], out[3 * x + 1] = plane[1][x], out[3 * x + 2] = plane[2][x];
}

/* luma, thermal: height x width bytes. weight: height x width in [0, 1], or NULL for 1 everywhere. rgb: NULL, then
 * `fused` is the luma, height x width bytes; or height x width x 3 bytes, then so is `fused`, in colour. */
void NAME(student_fuse)(const Student *s, const uint8_t *luma, const uint8_t *thermal, const float *weight,
                        const uint8_t *rgb, int height, int width, int threads, float *workspace, uint8_t *fused) {
    const int high = multiple_of_16(height), wide = multiple_of_16(width), rows = high / 4, columns = wide / 4;
    const int n16 = s->enc16.outputs, half_columns = 2 * columns;
    const size_t plane = 4 * (size_t)rows * columns; /* of one coefficient, at half resolution */
    Map x4 = take(&workspace, rows, columns, s->stem.outputs), d4 = take(&workspace, rows, columns, s->dec4.outputs);
    Map a8 = take(&workspace, rows / 2, columns / 2, s->enc8.outputs);
    Map b8 = take(&workspace, rows / 2, columns / 2, s->enc8.outputs);
    Map a16 = take(&workspace, rows / 4, columns / 4, n16), b16 = take(&workspace, rows / 4, columns / 4, n16);
    float *sums = workspace, *half = sums + SUMS * height, *context = half + 4 * plane;

#pragma omp parallel num_threads(threads)
    {
        float y[4][wide], t[4][wide];
#pragma omp for schedule(static)
        for (int r = 0; r < height; r++) {
            vec8 of_thermal = {0}, of_weight = {0};
            float *sum = sums + SUMS * r;
            const uint8_t *from = thermal + (size_t)r * width;
            const float *w = weight ? weight + (size_t)r * width : NULL;
            int x = 0;
            for (; x + LANES <= width; x += LANES) {
                vec8 here, trust;
                for (int i = 0; i < LANES; i++) here[i] = from[x + i], trust[i] = w ? w[x + i] : 1;
                of_thermal += trust * here;
                of_weight += trust;
            }
            sum[0] = sum[1] = 0;
            for (; x < width; x++) sum[0] += (w ? w[x] : 1) * from[x], sum[1] += w ? w[x] : 1;
            for (int i = 0; i < LANES; i++) sum[0] += of_thermal[i], sum[1] += of_weight[i];
        }
        double of_thermal = 0, of_weight = 0;
        for (int r = 0; r < height; r++) of_thermal += sums[SUMS * r], of_weight += sums[SUMS * r + 1];
        const float mean = of_thermal / 255 / fmax(of_weight, 1);

        /* The stem: each output sees 4x4 pixels of both sources, 32 inputs. */
#pragma omp for schedule(static)
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < 4; i++) {
                const size_t from = (size_t)(4 * r + i < height ? 4 * r + i : height - 1) * width;
                NAME(sources)(luma + from, thermal + from, weight ? weight + from : NULL, mean, width, wide, y[i],
                              t[i]);
            }
            float patches[columns][32]; /* of luma, then of thermal */
            for (int c = 0; c < columns; c++)
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++)
                        patches[c][4 * i + j] = y[i][4 * c + j], patches[c][16 + 4 * i + j] = t[i][4 * c + j];
            NAME(row)(patches[0], 0, 0, 1, 32, 32, &s->stem, 1, columns, x4.at + r * x4.stride);
        }
        NAME(convolve)(&s->down8, x4, 2, a8);
        NAME(convolve)(&s->enc8, a8, 1, b8);
        NAME(convolve)(&s->down16, b8, 2, a16);
        NAME(convolve)(&s->enc16, a16, 1, b16);
#pragma omp single
        {
            float *mean16 = context, *hidden = mean16 + n16, *answer = hidden + n16;
            memset(mean16, 0, n16 * sizeof *mean16);
            for (int r = 0; r < b16.rows; r++)
                for (int i = 0; i < b16.columns * n16; i += n16)
                    for (int c = 0; c < n16; c++) mean16[c] += b16.at[r * b16.stride + i + c];
            for (int c = 0; c < n16; c++) mean16[c] /= b16.rows * b16.columns;
            NAME(connect)(&s->context0, mean16, 1, hidden);
            NAME(connect)(&s->context2, hidden, 0, answer);
            for (int r = 0; r < b16.rows; r++)
                for (int i = 0; i < b16.columns * n16; i += n16)
                    for (int c = 0; c < n16; c++) b16.at[r * b16.stride + i + c] += answer[c];
        }
        NAME(convolve)(&s->dec16, b16, 1, a16);
        NAME(raise)(&s->up8, a16, b8);
        NAME(convolve)(&s->dec8, b8, 1, a8);
        NAME(raise)(&s->up4, a8, x4);
        NAME(convolve)(&s->dec4, x4, 1, d4);

        /* The head, whose 16 outputs are each coefficient at 2x2 points (pixel_shuffle). */
#pragma omp for schedule(static)
        for (int r = 0; r < rows; r++) {
            float answer[columns][16];
            NAME(row)(d4.at + (r - 1) * (ptrdiff_t)d4.stride - d4.channels, d4.stride, d4.channels, 3, d4.channels,
                      d4.channels, &s->head, 0, columns, answer[0]);
            for (int k = 0; k < 8; k++) {
                float *to = half + k / 2 * plane + (2 * r + k % 2) * (size_t)half_columns;
                for (int c = 0; c < columns; c++)
                    to[2 * c] = answer[c][2 * k], to[2 * c + 1] = answer[c][2 * k + 1];
            }
        }

        /* The local affine model: fused = a Y + b T + m max(Y, T) + c. */
        float tall[half_columns], abmc[4][wide];
#pragma omp for schedule(static)
        for (int r = 0; r < height; r++) {
            const int near = r / 2, wanted = r % 2 ? near + 1 : near - 1;
            const int far = wanted < 0 ? 0 : wanted < 2 * rows ? wanted : 2 * rows - 1;
            for (int k = 0; k < 4; k++) {
                const float *of_near = half + k * plane + near * (size_t)half_columns;
                const float *of_far = half + k * plane + far * (size_t)half_columns;
                for (int c = 0; c < half_columns; c++) tall[c] = 0.75f * of_near[c] + 0.25f * of_far[c];
                NAME(widen)(tall, half_columns, abmc[k]);
            }
            const size_t from = (size_t)r * width;
            const float *w = weight ? weight + from : NULL;
            NAME(sources)(luma + from, thermal + from, w, mean, width, width, y[0], t[0]);
            float *f = y[1];
            for (int x = 0; x < width; x++) {
                const float larger = y[0][x] > t[0][x] ? y[0][x] : t[0][x];
                f[x] = NAME(cut)(abmc[3][x] + abmc[0][x] * y[0][x] + abmc[1][x] * t[0][x] + abmc[2][x] * larger, 1);
            }
            if (w)
                for (int x = 0; x < width; x++) f[x] = y[0][x] + w[x] * (f[x] - y[0][x]);
            for (int x = 0; x < width; x++) f[x] *= 255;
            if (rgb)
                NAME(paint)(rgb + 3 * from, luma + from, f, width, fused + 3 * from);
            else
                for (int x = 0; x < width; x++) fused[from + x] = (uint8_t)(int)rintf(f[x]);
        }
    }
}

#undef JOIN_
#undef JOIN
#undef NAME
#undef INLINE

#else /* the innermost: a convolution's work on BLOCK outputs, in registers of WIDTH floats */

#define VECTOR JOIN(vec, WIDTH)
#define LOOSE JOIN(loose, WIDTH)
#define VECTORS (BLOCK / WIDTH)
#define PIXELS (VECTORS == 1 ? 8 : 12 / VECTORS) /* sums that registers can hold, and as many as two multipliers need */

/* `pixels` neighbours, all their sums in registers. */
INLINE void NAME(JOIN(tile, BLOCK))(const float *in, size_t row, int tap, int taps, int inputs, int pixel,
                                    const float *w, const float *bias, int relu, const int pixels, float *out,
                                    int channels) {
    VECTOR sum[PIXELS][VECTORS];
#pragma GCC unroll 8
    for (int p = 0; p < pixels; p++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sum[p][v] = ((const LOOSE *)bias)[v];
    for (int down = 0; down < taps; down++)
        for (int right = 0; right < taps; right++) {
            const float *from = in + down * row + right * tap;
            for (int i = 0; i < inputs; i++, w += BLOCK) {
                VECTOR weight[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) weight[v] = ((const LOOSE *)w)[v];
#pragma GCC unroll 8
                for (int p = 0; p < pixels; p++)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; v++) sum[p][v] += from[p * pixel + i] * weight[v];
            }
        }
#pragma GCC unroll 8
    for (int p = 0; p < pixels; p++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const VECTOR value = sum[p][v];
            ((LOOSE *)(out + p * channels))[v] = relu ? (VECTOR)((__typeof__(value > 0))value & (value > 0)) : value;
        }
}

/* A row. A last tile that would not fit lies over the one before. */
INLINE void NAME(JOIN(block, BLOCK))(const float *in, size_t row, int tap, int taps, int inputs, int pixel,
                                     const float *w, const float *bias, int relu, int columns, float *out,
                                     int channels) {
    if (columns < PIXELS)
        for (int x = 0; x < columns; x++)
            NAME(JOIN(tile, BLOCK))(in + x * pixel, row, tap, taps, inputs, pixel, w, bias, relu, 1,
                                    out + x * channels, channels);
    else
        for (int x = 0; x < columns; x += PIXELS) {
            if (x > columns - PIXELS) x = columns - PIXELS;
            NAME(JOIN(tile, BLOCK))(in + x * pixel, row, tap, taps, inputs, pixel, w, bias, relu, PIXELS,
                                    out + x * channels, channels);
        }
}

#undef VECTOR
#undef LOOSE
#undef VECTORS
#undef PIXELS

#endif
