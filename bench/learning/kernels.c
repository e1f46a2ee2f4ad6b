/* Loops over batches of feature maps: what PyTorch needs several passes over memory for, in one.
 *
 * Arrays are contiguous, maps are [image][row][column][channel] (channels-last). Kernels are 3 x 3 with stride 1 and no
 * padding. Pooling takes the largest of 2 x 2 values and leaves out an odd last row and column, as max_pool2d(x, 2) does;
 * position says which of the four it was, row by row, or DEAD where ReLU made it zero, so that nothing flows back.
 * A value that is not a number wins, as in PyTorch: what went wrong must show.
 *
 * No result depends on the number of threads: sums over a batch are made in PARTS, which threads share, and then over
 * the parts. Where those go is room that the caller provides. */

#include <stdint.h>
#include <string.h>

enum { KERNEL = 3, DEAD = 4, PARTS = 8 };

#define FIRST_OF(part, images) ((int64_t)(part) * (images) / PARTS)
/* Written out, as compilers do not vectorise a loop around loops. */
#define EACH_TAP TAP(0, 0); TAP(0, 1); TAP(0, 2); TAP(1, 0); TAP(1, 1); TAP(1, 2); TAP(2, 0); TAP(2, 1); TAP(2, 2)
#define KEEP_LARGER(value, number)                            \
    do {                                                      \
        const float candidate = (value);                      \
        const int wins = (candidate > best) | (candidate != candidate); \
        best = wins ? candidate : best;                       \
        where = wins ? (number) : where;                      \
    } while (0)

/* As many channels at once as the processor's registers have room for, and how many such sums it has registers for, with
 * what is multiplied beside them. Compilers make slow code of vectors that are longer than registers. */
#if defined(__AVX512F__)
enum { LANES = 16, PIXELS = 8, VECTORS = 3, POOLED_VECTORS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, PIXELS = 4, VECTORS = 3, POOLED_VECTORS = 2 };
#else
enum { LANES = 4, PIXELS = 4, VECTORS = 3, POOLED_VECTORS = 2 };
#endif
/* Wherever they lie; the second is what comparing them gives: all bits where it holds. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int32_t lanes_bits __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(sizeof(int32_t))));

/* sums [values] of parts [PARTS][values] */
static void sum_parts(const float *restrict parts, float *restrict sums, int64_t values, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t v = 0; v < values; v++) {
        float sum = 0;
        for (int part = 0; part < PARTS; part++)
            sum += parts[part * values + v];
        sums[v] = sum;
    }
}

/* One pooled pixel of pooled_grey, all its channels: at is where the first of its four kernels stands. */
static inline void grey_pixel(const float *restrict at, const float *restrict weight, const float *restrict bias,
                              float *restrict pooled, uint8_t *restrict position, int64_t width, int64_t channels)
{
#pragma omp simd
    for (int64_t o = 0; o < channels; o++) {
        float a = bias[o], b = a, c = a, d = a;
#define TAP(p, q)                                                \
    do {                                                         \
        const float w = weight[(p * KERNEL + q) * channels + o]; \
        a += w * at[p * width + q];                              \
        b += w * at[p * width + q + 1];                          \
        c += w * at[(p + 1) * width + q];                        \
        d += w * at[(p + 1) * width + q + 1];                    \
    } while (0)
        EACH_TAP;
#undef TAP
        float best = a;
        int where = 0;
        KEEP_LARGER(b, 1);
        KEEP_LARGER(c, 2);
        KEEP_LARGER(d, 3);
        const int dead = best <= 0;
        pooled[o] = dead ? 0 : best;
        position[o] = dead ? DEAD : where;
    }
}

/* relu(max_pool2d(conv(images))) of grey images.
 * images [count][height][width], weight [3][3][channels], bias [channels];
 * pooled and position [count][rows][columns][channels], where rows = (height - 2) / 2 and columns = (width - 2) / 2. */
void pooled_grey(const float *images, const float *weight, const float *bias, float *pooled,
                            uint8_t *position, int64_t count, int64_t height, int64_t width, int64_t channels,
                            int threads)
{
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < count; n++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                const int64_t to = ((n * rows + i) * columns + j) * channels;
                grey_pixel(images + (n * height + 2 * i) * width + 2 * j, weight, bias, pooled + to, position + to, width,
                           channels);
            }
}

/* What one pooled pixel adds to the gradients of pooled_grey. */
static inline void grey_pixel_gradients(const float *restrict at, const float *restrict gradient,
                                        const uint8_t *restrict position, float *restrict by_weight,
                                        float *restrict by_bias, int64_t width, int64_t channels)
{
#pragma omp simd
    for (int64_t o = 0; o < channels; o++) {
        const float g = gradient[o];
        const int where = position[o];
        const float a = where == 0 ? g : 0, b = where == 1 ? g : 0, c = where == 2 ? g : 0, d = where == 3 ? g : 0;
        by_bias[o] += a + b + c + d;
#define TAP(p, q)                                                                                         \
    by_weight[(p * KERNEL + q) * channels + o] += a * at[p * width + q] + b * at[p * width + q + 1] + \
                                                  c * at[(p + 1) * width + q] + d * at[(p + 1) * width + q + 1]
        EACH_TAP;
#undef TAP
    }
}

/* The gradients of pooled_grey: by_weight [3][3][channels] and, right behind it, by_bias [channels].
 * Room: parts [PARTS][10 * channels]. */
void pooled_grey_gradients(const float *images, const float *gradient, const uint8_t *position, float *parts,
                           float *by_weight_and_bias, int64_t count, int64_t height, int64_t width, int64_t channels,
                           int threads)
{
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2;
    const int64_t weights = KERNEL * KERNEL * channels, sums = weights + channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < PARTS; part++) {
        float *by_weight = parts + part * sums;
        memset(by_weight, 0, sizeof(float) * sums);
        for (int64_t n = FIRST_OF(part, count); n < FIRST_OF(part + 1, count); n++)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++) {
                    const int64_t from = ((n * rows + i) * columns + j) * channels;
                    grey_pixel_gradients(images + (n * height + 2 * i) * width + 2 * j, gradient + from, position + from,
                                         by_weight, by_weight + weights, width, channels);
                }
    }
    sum_parts(parts, by_weight_and_bias, sums, threads);
}

/* relu(max_pool2d(maps)): maps [count][height][width][channels];
 * pooled and position [count][height / 2][width / 2][channels]. */
void pool(const float *restrict maps, float *restrict pooled, uint8_t *restrict position, int64_t count, int64_t height,
          int64_t width, int64_t channels, int threads)
{
    const int64_t rows = height / 2, columns = width / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < count; n++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                const float *restrict above = maps + ((n * height + 2 * i) * width + 2 * j) * channels;
                const float *restrict below = above + width * channels;
                const int64_t to = ((n * rows + i) * columns + j) * channels;
#pragma omp simd
                for (int64_t o = 0; o < channels; o++) {
                    float best = above[o];
                    int where = 0;
                    KEEP_LARGER(above[channels + o], 1);
                    KEEP_LARGER(below[o], 2);
                    KEEP_LARGER(below[channels + o], 3);
                    const int dead = best <= 0;
                    pooled[to + o] = dead ? 0 : best;
                    position[to + o] = dead ? DEAD : where;
                }
            }
}

/* One pooled pixel of pooled_convolution, LANES channels times vectors of them: at is where the first of its four kernels
 * stands. Inlined with vectors known, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void
convolved_pixel(const float *restrict at, const float *restrict weight, const float *restrict bias, float *restrict pooled,
                uint8_t *restrict position, int64_t line, int64_t channels, int64_t outputs, const int vectors)
{
    lanes sums[4][POOLED_VECTORS];
    for (int k = 0; k < 4; k++)
        for (int v = 0; v < vectors; v++)
            sums[k][v] = *(const lanes *)(bias + LANES * v);
    for (int p = 0; p < KERNEL; p++)
        for (int64_t t = 0; t < KERNEL * channels; t++)
            for (int v = 0; v < vectors; v++) {
                const lanes w = *(const lanes *)(weight + (p * KERNEL * channels + t) * outputs + LANES * v);
                for (int k = 0; k < 4; k++)
                    sums[k][v] += at[(p + (k >> 1)) * line + (k & 1) * channels + t] * w;
            }
    for (int v = 0; v < vectors; v++)
#pragma omp simd
        for (int o = 0; o < LANES; o++) {
            float best = sums[0][v][o];
            int where = 0;
            KEEP_LARGER(sums[1][v][o], 1);
            KEEP_LARGER(sums[2][v][o], 2);
            KEEP_LARGER(sums[3][v][o], 3);
            const int dead = best <= 0;
            pooled[LANES * v + o] = dead ? 0 : best;
            position[LANES * v + o] = dead ? DEAD : where;
        }
}

/* relu(max_pool2d(conv(maps))): maps [count][height][width][channels], weight [outputs][3][3][channels], bias [outputs],
 * outputs a multiple of 16; pooled and position [count][rows][columns][outputs] as in pooled_grey.
 * Room: by_tap [3][3][channels][outputs]. */
void pooled_convolution(const float *maps, const float *weight, const float *bias, float *by_tap, float *pooled,
                        uint8_t *position, int64_t count, int64_t height, int64_t width, int64_t channels,
                        int64_t outputs, int threads)
{
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2, line = width * channels;
    const int64_t taps = KERNEL * KERNEL * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < taps; t++)
        for (int64_t o = 0; o < outputs; o++)
            by_tap[t * outputs + o] = weight[o * taps + t];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < count; n++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                const float *at = maps + (n * height + 2 * i) * line + 2 * j * channels;
                const int64_t to = ((n * rows + i) * columns + j) * outputs;
                int64_t o = 0;
#define PIXEL(vectors) \
    convolved_pixel(at, by_tap + o, bias + o, pooled + to + o, position + to + o, line, channels, outputs, vectors)
                for (; o + LANES * POOLED_VECTORS <= outputs; o += LANES * POOLED_VECTORS)
                    PIXEL(POOLED_VECTORS);
                for (; o < outputs; o += LANES)
                    PIXEL(1);
#undef PIXEL
            }
}

/* What one image adds to the gradients of a convolution that is pooled. Of four values pooling keeps one, and ReLU some of
 * those: the rest of the gradient is zero and is left out. starts and flows have room for rows * columns + 3 values of each
 * output, found for one. Inlined with the number of channels known, so that the innermost loops have a known length. */
static inline __attribute__((always_inline)) void
image_gradients(const float *restrict maps, const float *restrict weight, const float *restrict gradient,
                const uint8_t *restrict position, float *restrict by_map, float *restrict by_weight,
                float *restrict by_bias, int32_t *restrict starts, float *restrict flows, int32_t *restrict found,
                int64_t height, int64_t width, int64_t channels, int64_t rows, int64_t columns, int64_t outputs)
{
    const int64_t room = rows * columns + 3, line = width * channels, run = KERNEL * channels;
    for (int64_t o = 0; o < outputs; o++)
        found[o] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t o = 0; o < outputs; o++) {
                const int64_t from = (i * columns + j) * outputs + o, to = o * room + found[o];
                const int where = position[from];
                starts[to] = (2 * i + (where >> 1)) * line + (2 * j + (where & 1)) * channels;
                flows[to] = gradient[from];
                found[o] += where != DEAD; /* the next one overwrites what nothing flows through */
            }
    /* A map and one output's kernel fit the fastest cache, but not together with both gradients: hence two loops. */
    for (int64_t o = 0; o < outputs; o++) {
        int32_t *restrict start = starts + o * room;
        float *restrict flow = flows + o * room;
        for (int32_t s = 0; s < found[o]; s++)
            by_bias[o] += flow[s];
        for (int32_t s = found[o]; s < found[o] + 3; s++) { /* by fours below */
            start[s] = start[0];
            flow[s] = 0;
        }
        float *restrict sum = by_weight + o * KERNEL * run;
        for (int32_t s = 0; s < found[o]; s += 4) {
            const float *restrict a = maps + start[s], *restrict b = maps + start[s + 1];
            const float *restrict c = maps + start[s + 2], *restrict d = maps + start[s + 3];
            const float e = flow[s], f = flow[s + 1], g = flow[s + 2], h = flow[s + 3];
            for (int p = 0; p < KERNEL; p++)
                for (int64_t t = 0; t < run; t++)
                    sum[p * run + t] += e * a[p * line + t] + f * b[p * line + t] + g * c[p * line + t] + h * d[p * line + t];
        }
    }
    memset(by_map, 0, sizeof(float) * height * line);
    for (int64_t o = 0; o < outputs; o++) {
        const float *restrict kernel = weight + o * KERNEL * run;
        for (int32_t s = 0; s < found[o]; s++) {
            float *restrict to = by_map + starts[o * room + s];
            const float g = flows[o * room + s];
            for (int p = 0; p < KERNEL; p++)
                for (int64_t t = 0; t < run; t++)
                    to[p * line + t] += g * kernel[p * run + t];
        }
    }
}

/* The gradients of relu(max_pool2d(conv(maps))).
 * maps and by_map [count][height][width][channels], weight [outputs][3][3][channels],
 * gradient and position [count][rows][columns][outputs], where rows = (height - 2) / 2 and columns = (width - 2) / 2;
 * by_weight as weight and, right behind it, by_bias [outputs].
 * Room: parts [PARTS][outputs * (9 * channels + 1)], starts and flows [PARTS][outputs][rows * columns + 3],
 * found [PARTS][outputs]. */
void pooled_gradients(const float *maps, const float *weight, const float *gradient, const uint8_t *position,
                      float *parts, int32_t *starts, float *flows, int32_t *found, float *by_map,
                      float *by_weight_and_bias, int64_t count, int64_t height, int64_t width, int64_t channels,
                      int64_t outputs, int threads)
{
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2;
    const int64_t weights = outputs * KERNEL * KERNEL * channels, sums = weights + outputs;
    const int64_t map = height * width * channels, pooled = rows * columns * outputs;
    const int64_t room = outputs * (rows * columns + 3);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < PARTS; part++) {
        float *by_weight = parts + part * sums;
        memset(by_weight, 0, sizeof(float) * sums);
        for (int64_t n = FIRST_OF(part, count); n < FIRST_OF(part + 1, count); n++) {
#define IMAGE_GRADIENTS(known_channels)                                                                                \
    image_gradients(maps + n * map, weight, gradient + n * pooled, position + n * pooled, by_map + n * map, by_weight, \
                    by_weight + weights, starts + part * room, flows + part * room, found + part * outputs, height,    \
                    width, known_channels, rows, columns, outputs)
            if (channels == 16)
                IMAGE_GRADIENTS(16);
            else if (channels == 32)
                IMAGE_GRADIENTS(32);
            else
                IMAGE_GRADIENTS(channels);
        }
    }
    sum_parts(parts, by_weight_and_bias, sums, threads);
}

static inline __attribute__((always_inline)) lanes relu6(lanes values)
{
    const lanes six = (lanes){0} + 6.0f;
    const lanes_bits positive = (lanes_bits)values & ~(lanes_bits)(values < (lanes){0});
    const lanes_bits large = (lanes_bits)((lanes)positive > six);
    return (lanes)((positive & ~large) | ((lanes_bits)six & large));
}

/* One image of depthwise. */
static inline void depthwise_image(const float *restrict maps, const float *restrict weight, const float *restrict bias,
                                   float *restrict answers, int64_t height, int64_t width, int64_t channels,
                                   int64_t stride, int64_t relu6_before)
{
    const int64_t rows = (height - 1) / stride + 1, columns = (width - 1) / stride + 1;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const float *pixels[KERNEL * KERNEL], *weights[KERNEL * KERNEL];
            int taps = 0; /* inside the map */
            for (int64_t p = 0; p < KERNEL; p++)
                for (int64_t q = 0; q < KERNEL; q++) {
                    const int64_t row = i * stride + p - 1, column = j * stride + q - 1;
                    if (row < 0 || row >= height || column < 0 || column >= width)
                        continue;
                    pixels[taps] = maps + (row * width + column) * channels;
                    weights[taps++] = weight + (p * KERNEL + q) * channels;
                }
            float *to = answers + (i * columns + j) * channels;
            for (int64_t o = 0; o < channels; o += LANES) {
                lanes sum = *(const lanes *)(bias + o);
                for (int t = 0; t < taps; t++) {
                    const lanes pixel = *(const lanes *)(pixels[t] + o);
                    sum += (relu6_before ? relu6(pixel) : pixel) * *(const lanes *)(weights[t] + o);
                }
                *(lanes *)(to + o) = relu6(sum);
            }
        }
}

/* relu6(conv(maps)), or relu6(conv(relu6(maps))) with relu6_before, where the convolution is depthwise and has a padding of
 * 1; channels are a multiple of 16.
 * maps [count][height][width][channels], weight [3][3][channels], bias [channels];
 * answers [count][(height - 1) / stride + 1][(width - 1) / stride + 1][channels]. */
void depthwise(const float *maps, const float *weight, const float *bias, float *answers, int64_t count, int64_t height,
               int64_t width, int64_t channels, int64_t stride, int64_t relu6_before, int threads)
{
    const int64_t from = height * width * channels;
    const int64_t to = ((height - 1) / stride + 1) * ((width - 1) / stride + 1) * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < count; n++)
        depthwise_image(maps + n * from, weight, bias, answers + n * to, height, width, channels, stride, relu6_before);
}

/* relu6 of a product: from [pixels][inputs] and to [pixels][channels], LANES channels times vectors of them.
 * Inlined with pixels and vectors known, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void
expand_tile(const float *restrict from, const float *restrict weight, const float *restrict bias, float *restrict to,
            int64_t inputs, int64_t channels, const int pixels, const int vectors)
{
    lanes sums[PIXELS][VECTORS];
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++)
            sums[p][v] = *(const lanes *)(bias + LANES * v);
    for (int64_t i = 0; i < inputs; i++)
        for (int p = 0; p < pixels; p++)
            for (int v = 0; v < vectors; v++)
                sums[p][v] += from[p * inputs + i] * *(const lanes *)(weight + i * channels + LANES * v);
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++)
            *(lanes *)(to + p * channels + LANES * v) = relu6(sums[p][v]);
}

static void expand_image(const float *maps, const float *weight, const float *bias, float *expanded, int64_t pixels,
                         int64_t inputs, int64_t channels)
{
    int64_t o = 0;
#define EXPAND(at, pixels, vectors)                                                                          \
    expand_tile(maps + (at) * inputs, weight + o, bias + o, expanded + (at) * channels + o, inputs, channels, \
                pixels, vectors)
    for (; o + LANES * VECTORS <= channels; o += LANES * VECTORS) {
        int64_t at = 0;
        for (; at + PIXELS <= pixels; at += PIXELS)
            EXPAND(at, PIXELS, VECTORS);
        for (; at < pixels; at++)
            EXPAND(at, 1, VECTORS);
    }
    for (; o < channels; o += LANES)
        for (int64_t at = 0; at < pixels; at++)
            EXPAND(at, 1, 1);
#undef EXPAND
}

/* depthwise of relu6 of a 1 x 1 convolution of maps [count][height][width][inputs]; an expanded image, of many more channels
 * than maps have, stays in the cache. expand [inputs][channels], expand_bias [channels], the others as for depthwise.
 * Room: expanded [threads][height][width][channels]. */
void expanded_depthwise(const float *maps, const float *expand, const float *expand_bias, const float *weight,
                        const float *bias, float *expanded, float *answers, int64_t count, int64_t height, int64_t width,
                        int64_t inputs, int64_t channels, int64_t stride, int threads)
{
    const int64_t pixels = height * width;
    const int64_t to = ((height - 1) / stride + 1) * ((width - 1) / stride + 1) * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        float *mine = expanded + thread * pixels * channels;
        for (int64_t n = thread * count / threads; n < (thread + 1) * count / threads; n++) {
            expand_image(maps + n * pixels * inputs, expand, expand_bias, mine, pixels, inputs, channels);
            depthwise_image(mine, weight, bias, answers + n * to, height, width, channels, stride, 0);
        }
    }
}
