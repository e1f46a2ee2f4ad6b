/* Loops over batches of feature maps: what PyTorch needs several passes over memory for, in one.
 *
 * Arrays are contiguous, maps are [image][row][column][channel] (channels-last). Kernels are 3 x 3, those with pooling of
 * stride 1 and without padding. Pooling takes the largest of 2 x 2 values and leaves out an odd last row and column, as
 * max_pool2d(x, 2) does;
 * position says which of the four it was, row by row, or DEAD where ReLU made it zero, so that nothing flows back.
 * A value that is not a number wins, as in PyTorch: what went wrong must show.
 *
 * No result depends on the number of threads: sums over a batch are made in PARTS, which threads share, and then over
 * the parts. Where those go is room that the caller provides. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h> /* not where it is not needed: reading it takes half a second */
#endif

enum { KERNEL = 3, DEAD = 4, PARTS = 8 };

#define FIRST_OF(part, images) ((int64_t)(part) * (images) / PARTS)
#define INLINED static inline __attribute__((always_inline))
/* A function of its own, so that its registers are its own. */
#define APART static __attribute__((noinline))

/* As many channels at once as the processor's registers have room for (-DWIDTH tries another), and how many such sums it has
 * registers for, with what is multiplied beside them. Compilers make slow code of vectors that are longer than registers. */
#ifndef WIDTH
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#endif
enum {
    LANES = WIDTH,
    PIXELS = WIDTH == 16 ? 8 : 4,
    VECTORS = 3,
    POOLED_VECTORS = WIDTH == 16 ? 4 : 2,
    GREY_VECTORS = 2,
};
/* Wherever they lie; the second is what comparing them gives: all bits where it holds. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int32_t lanes_bits __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(sizeof(int32_t))));
typedef uint8_t lanes_bytes __attribute__((vector_size(LANES), aligned(1)));
#define AT(address) (*(lanes *)(address))
#define FROM(address) (*(const lanes *)(address))

INLINED lanes chosen(lanes_bits where, lanes yes, lanes no)
{
    return (lanes)((where & (lanes_bits)yes) | (~where & (lanes_bits)no));
}

/* Numbers from bytes and back. GCC converts such vectors one value at a time, and shuffles them at once. */
#if WIDTH == 8 && defined(__AVX2__) && !defined(__clang__)
typedef uint8_t all_bytes __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint64_t all_words __attribute__((vector_size(LANES * sizeof(int32_t))));

INLINED lanes_bits numbers(const uint8_t *bytes)
{
    const all_bytes each_four_times = {0,  0,  0,  0,  1,  1,  1,  1,  2,  2,  2,  2,  3,  3,  3,  3,
                                       20, 20, 20, 20, 21, 21, 21, 21, 22, 22, 22, 22, 23, 23, 23, 23};
    uint64_t eight;
    memcpy(&eight, bytes, sizeof eight);
    return (lanes_bits)__builtin_shuffle((all_bytes)((all_words){0} + eight), each_four_times) & 0xff;
}

INLINED void write_bytes(uint8_t *bytes, lanes_bits values)
{
    const all_bytes lowest = {0,  4,  8,  12, 0,  4,  8,  12, 0,  4,  8,  12, 0,  4,  8,  12,
                              16, 20, 24, 28, 16, 20, 24, 28, 16, 20, 24, 28, 16, 20, 24, 28};
    const lanes_bits fours = (lanes_bits)__builtin_shuffle((all_bytes)values, lowest);
    const int32_t four[2] = {fours[0], fours[4]};
    memcpy(bytes, four, sizeof four);
}
#else
INLINED lanes_bits numbers(const uint8_t *bytes)
{
    return __builtin_convertvector(*(const lanes_bytes *)bytes, lanes_bits);
}

INLINED void write_bytes(uint8_t *bytes, lanes_bits values)
{
    *(lanes_bytes *)bytes = __builtin_convertvector(values, lanes_bytes);
}
#endif

/* relu of the largest of four values, and which it was. */
INLINED void keep_largest(lanes a, lanes b, lanes c, lanes d, float *restrict pooled, uint8_t *restrict position)
{
    lanes best = a;
    lanes_bits where = {0};
#define KEEP_LARGER(value, number)                                    \
    do {                                                              \
        const lanes_bits wins = (value > best) | (value != value);    \
        best = chosen(wins, value, best);                             \
        where = (wins & (number)) | (~wins & where);                  \
    } while (0)
    KEEP_LARGER(b, 1);
    KEEP_LARGER(c, 2);
    KEEP_LARGER(d, 3);
#undef KEEP_LARGER
    const lanes_bits dead = best <= (lanes){0};
    AT(pooled) = chosen(dead, (lanes){0}, best);
    write_bytes(position, (dead & DEAD) | (~dead & where));
}

/* The same, one value of each. */
INLINED void keep_largest_one(float a, float b, float c, float d, float *restrict pooled, uint8_t *restrict position)
{
    float best = a;
    int where = 0;
#define KEEP_LARGER(value, number)                               \
    do {                                                         \
        const int wins = ((value) > best) | ((value) != (value)); \
        best = wins ? (value) : best;                            \
        where = wins ? (number) : where;                         \
    } while (0)
    KEEP_LARGER(b, 1);
    KEEP_LARGER(c, 2);
    KEEP_LARGER(d, 3);
#undef KEEP_LARGER
    const int dead = best <= 0;
    *pooled = dead ? 0 : best;
    *position = dead ? DEAD : where;
}

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

/* weight [outputs][taps] as blocks of [taps][block] and then of [taps][LANES]: what is read in a row lies in a row. */
static void pack(const float *restrict weight, float *restrict packed, int64_t outputs, int64_t taps, int64_t block,
                 int threads)
{
    const int64_t in_large = outputs - outputs % block;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        const int64_t width = o < in_large ? block : LANES, first = o < in_large ? o % block : (o - in_large) % LANES;
        for (int64_t t = 0; t < taps; t++)
            packed[(o - first) * taps + t * width + first] = weight[o * taps + t];
    }
}

/* One pooled pixel of pooled_grey, LANES channels times vectors of them: at is where the first of its four kernels stands. */
INLINED void grey_pixel(const float *restrict at, const float *restrict weight, const float *restrict bias,
                        float *restrict pooled, uint8_t *restrict position, int64_t width, int64_t channels, const int vectors)
{
    lanes sums[4][GREY_VECTORS];
    for (int k = 0; k < 4; k++)
        for (int v = 0; v < vectors; v++)
            sums[k][v] = FROM(bias + LANES * v);
    for (int p = 0; p < KERNEL; p++)
        for (int q = 0; q < KERNEL; q++)
            for (int v = 0; v < vectors; v++) {
                const lanes w = FROM(weight + (p * KERNEL + q) * channels + LANES * v);
                for (int k = 0; k < 4; k++)
                    sums[k][v] += w * at[(p + (k >> 1)) * width + q + (k & 1)];
            }
    for (int v = 0; v < vectors; v++)
        keep_largest(sums[0][v], sums[1][v], sums[2][v], sums[3][v], pooled + LANES * v, position + LANES * v);
}

/* The same of one channel. */
static void grey_pixel_one(const float *restrict at, const float *restrict weight, float bias, float *restrict pooled,
                           uint8_t *restrict position, int64_t width, int64_t channels)
{
    float sums[4] = {bias, bias, bias, bias};
    for (int p = 0; p < KERNEL; p++)
        for (int q = 0; q < KERNEL; q++)
            for (int k = 0; k < 4; k++)
                sums[k] += weight[(p * KERNEL + q) * channels] * at[(p + (k >> 1)) * width + q + (k & 1)];
    keep_largest_one(sums[0], sums[1], sums[2], sums[3], pooled, position);
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
                const float *at = images + (n * height + 2 * i) * width + 2 * j;
                const int64_t to = ((n * rows + i) * columns + j) * channels;
                int64_t o = 0;
#define PIXEL(vectors) grey_pixel(at, weight + o, bias + o, pooled + to + o, position + to + o, width, channels, vectors)
                for (; o + LANES * GREY_VECTORS <= channels; o += LANES * GREY_VECTORS)
                    PIXEL(GREY_VECTORS);
                for (; o + LANES <= channels; o += LANES)
                    PIXEL(1);
#undef PIXEL
                for (; o < channels; o++)
                    grey_pixel_one(at, weight + o, bias[o], pooled + to + o, position + to + o, width, channels);
            }
}

/* What one image adds to the gradients of pooled_grey, for LANES channels. Sums stay in registers. */
static void grey_gradients(const float *restrict image, const float *restrict gradient, const uint8_t *restrict position,
                           float *restrict by_weight, float *restrict by_bias, int64_t width, int64_t channels, int64_t rows,
                           int64_t columns)
{
    lanes sums[KERNEL * KERNEL] = {{0}}, sum = {0};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const float *at = image + 2 * i * width + 2 * j;
            const int64_t from = (i * columns + j) * channels;
            const lanes_bits where = numbers(position + from);
            const lanes flow = FROM(gradient + from);
            lanes flows[4];
            for (int k = 0; k < 4; k++) {
                flows[k] = (lanes)((lanes_bits)flow & (lanes_bits)(where == k));
                sum += flows[k];
            }
            for (int p = 0; p < KERNEL; p++)
                for (int q = 0; q < KERNEL; q++)
                    for (int k = 0; k < 4; k++)
                        sums[p * KERNEL + q] += flows[k] * at[(p + (k >> 1)) * width + q + (k & 1)];
        }
    for (int t = 0; t < KERNEL * KERNEL; t++)
        AT(by_weight + t * channels) += sums[t];
    AT(by_bias) += sum;
}

/* The same for one channel. */
static void grey_gradients_one(const float *restrict image, const float *restrict gradient,
                               const uint8_t *restrict position, float *restrict by_weight, float *restrict by_bias,
                               int64_t width, int64_t channels, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const int64_t from = (i * columns + j) * channels;
            const int where = position[from];
            if (where == DEAD)
                continue;
            const float *at = image + (2 * i + (where >> 1)) * width + 2 * j + (where & 1);
            for (int p = 0; p < KERNEL; p++)
                for (int q = 0; q < KERNEL; q++)
                    by_weight[(p * KERNEL + q) * channels] += gradient[from] * at[p * width + q];
            *by_bias += gradient[from];
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
        for (int64_t n = FIRST_OF(part, count); n < FIRST_OF(part + 1, count); n++) {
            const int64_t from = n * rows * columns * channels;
            int64_t o = 0;
#define GRADIENTS(function)                                                                                       \
    function(images + n * height * width, gradient + from + o, position + from + o, by_weight + o, by_weight + weights + o, \
             width, channels, rows, columns)
            for (; o + LANES <= channels; o += LANES)
                GRADIENTS(grey_gradients);
            for (; o < channels; o++)
                GRADIENTS(grey_gradients_one);
#undef GRADIENTS
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
                int64_t o = 0;
                for (; o + LANES <= channels; o += LANES)
                    keep_largest(FROM(above + o), FROM(above + channels + o), FROM(below + o), FROM(below + channels + o),
                                 pooled + to + o, position + to + o);
                for (; o < channels; o++)
                    keep_largest_one(above[o], above[channels + o], below[o], below[channels + o], pooled + to + o,
                                     position + to + o);
            }
}

/* One pooled pixel of pooled_convolution, LANES channels times vectors of them: at is where the first of its four kernels
 * stands, weight [taps][LANES * vectors]. Inlined with vectors known, so that the sums stay in registers. */
INLINED void convolved_pixel(const float *restrict at, const float *restrict weight, const float *restrict bias,
                             float *restrict pooled, uint8_t *restrict position, int64_t line, int64_t channels,
                             const int vectors)
{
    lanes sums[4][POOLED_VECTORS];
    for (int k = 0; k < 4; k++)
        for (int v = 0; v < vectors; v++)
            sums[k][v] = FROM(bias + LANES * v);
    for (int p = 0; p < KERNEL; p++)
        for (int64_t t = 0; t < KERNEL * channels; t++)
            for (int v = 0; v < vectors; v++) {
                const lanes w = FROM(weight + ((p * KERNEL * channels + t) * vectors + v) * LANES);
                for (int k = 0; k < 4; k++)
                    sums[k][v] += at[(p + (k >> 1)) * line + (k & 1) * channels + t] * w;
            }
    for (int v = 0; v < vectors; v++)
        keep_largest(sums[0][v], sums[1][v], sums[2][v], sums[3][v], pooled + LANES * v, position + LANES * v);
}

/* Processors have one instruction each for max and min, whose answer is the second number where one is none. */
INLINED lanes relu6(lanes values)
{
    const lanes six = (lanes){0} + 6.0f;
#if WIDTH == 16 && defined(__AVX512F__)
    return (lanes)_mm512_min_ps((__m512)six, _mm512_max_ps(_mm512_setzero_ps(), (__m512)values));
#elif WIDTH == 8 && defined(__AVX__)
    typedef float registers __attribute__((vector_size(LANES * sizeof(float))));
    return (lanes)__builtin_ia32_minps256((registers)six, __builtin_ia32_maxps256((registers){0}, (registers)values));
#else
    const lanes positive = chosen(values < (lanes){0}, (lanes){0}, values);
    return chosen(positive > six, six, positive);
#endif
}

/* For each pixel, sums over lines of run values each: to [pixels][step], of which LANES * vectors are written. From one pixel's
 * values to the next pixel's there are apart, and from one line to the next line. weight [lines][run][LANES * vectors].
 * Inlined with pixels and vectors known, so that the sums stay in registers. */
INLINED void product_tile(const float *restrict from, const float *restrict weight, const float *restrict bias,
                          float *restrict to, int64_t lines, int64_t line, int64_t run, int64_t apart, int64_t step,
                          const int relu6_after, const int pixels, const int vectors)
{
    lanes sums[PIXELS][VECTORS];
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++)
            sums[p][v] = FROM(bias + LANES * v);
    for (int64_t l = 0; l < lines; l++)
        for (int64_t i = 0; i < run; i++)
            for (int p = 0; p < pixels; p++)
                for (int v = 0; v < vectors; v++)
                    sums[p][v] += from[l * line + p * apart + i] * FROM(weight + ((l * run + i) * vectors + v) * LANES);
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++)
            AT(to + p * step + LANES * v) = relu6_after ? relu6(sums[p][v]) : sums[p][v];
}

INLINED void product(const float *restrict from, const float *restrict weight, const float *restrict bias,
                     float *restrict to, int64_t pixels, int64_t lines, int64_t line, int64_t run, int64_t apart, int64_t step,
                     const int relu6_after, const int vectors)
{
#define TILE(at, pixels)                                                                                                \
    product_tile(from + (at) * apart, weight, bias, to + (at) * step, lines, line, run, apart, step, relu6_after, pixels, \
                 vectors)
    if (pixels < PIXELS)
        for (int64_t at = 0; at < pixels; at++)
            TILE(at, 1);
    else /* the last ones once more, if they are not enough for a tile */
        for (int64_t at = 0; at < pixels; at += PIXELS)
            TILE(at + PIXELS <= pixels ? at : pixels - PIXELS, PIXELS);
#undef TILE
}

/* Of from [pixels][inputs] and weight [inputs][LANES * vectors]. */
#define PRODUCT(name, vectors)                                                                                     \
    APART void name(const float *from, const float *weight, const float *bias, float *to, int64_t pixels, int64_t inputs, \
                    int64_t step)                                                                                  \
    {                                                                                                              \
        product(from, weight, bias, to, pixels, 1, 0, inputs, inputs, step, 0, vectors);                           \
    }
PRODUCT(product_of_one, 1)
PRODUCT(product_of_two, 2)
PRODUCT(product_of_three, 3)
typedef void (*product_function)(const float *, const float *, const float *, float *, int64_t, int64_t, int64_t);

#define RELU6_OF_PRODUCT(name, vectors)                                                                            \
    APART void name(const float *from, const float *weight, const float *bias, float *to, int64_t pixels, int64_t lines, \
                    int64_t line, int64_t run, int64_t apart, int64_t step)                                        \
    {                                                                                                              \
        product(from, weight, bias, to, pixels, lines, line, run, apart, step, 1, vectors);                        \
    }
RELU6_OF_PRODUCT(relu6_of_product_of_one, 1)
RELU6_OF_PRODUCT(relu6_of_product_of_two, 2)
RELU6_OF_PRODUCT(relu6_of_product_of_three, 3)
typedef void (*relu6_of_product_function)(const float *, const float *, const float *, float *, int64_t, int64_t, int64_t,
                                          int64_t, int64_t, int64_t);

/* By how many vectors, less one. */
static const product_function products[] = {product_of_one, product_of_two, product_of_three};
static const relu6_of_product_function relu6_of_products[] = {relu6_of_product_of_one, relu6_of_product_of_two,
                                                              relu6_of_product_of_three};

/* How many channels the next block has when so many are left, a multiple of LANES: at best VECTORS of these, which are 3, and
 * not one alone, whose sums would keep the processor waiting for each other. */
INLINED int64_t next_block(int64_t left)
{
    return left == LANES ? LANES : left == 2 * LANES || left == 4 * LANES ? 2 * LANES : VECTORS * LANES;
}

/* The weight [outputs][inputs] of a 1 x 1 convolution as inverted_residual reads it, in as many values: blocks of
 * [inputs][outputs of the block]. */
void pack_product(const float *restrict weight, float *restrict packed, int64_t outputs, int64_t inputs, int threads)
{
    (void)threads;
    for (int64_t o = 0, block; o < outputs; o += block) {
        block = next_block(outputs - o);
        for (int64_t lane = 0; lane < block; lane++)
            for (int64_t i = 0; i < inputs; i++)
                packed[o * inputs + i * block + lane] = weight[(o + lane) * inputs + i];
    }
}

/* Winograd's convolution: of a patch of 4 x 4 pixels it makes the 2 x 2 that are pooled, with 16 multiplications for each pair
 * of channels instead of 36 (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, F(2 x 2, 3 x 3)).
 * What is transformed has 16 values, and so 16 products of matrices take the place of the convolution. */
enum { VALUES = 16 };

/* weight [outputs][3][3][channels] to transformed: blocks of [VALUES][channels][block], then of [VALUES][channels][LANES]. */
static void transform_weight(const float *restrict weight, float *restrict transformed, int64_t outputs, int64_t channels,
                             int64_t block, int threads)
{
    const int64_t in_large = outputs - outputs % block;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        const int64_t width = o < in_large ? block : LANES, lane = o < in_large ? o % block : (o - in_large) % LANES;
        float *to = transformed + (o - lane) * VALUES * channels + lane;
        for (int64_t c = 0; c < channels; c++) {
            float half[4][KERNEL];
            for (int q = 0; q < KERNEL; q++) {
                const float *at = weight + (o * KERNEL * KERNEL + q) * channels + c;
                const float first = at[0], second = at[KERNEL * channels], third = at[2 * KERNEL * channels];
                half[0][q] = first;
                half[1][q] = 0.5f * (first + second + third);
                half[2][q] = 0.5f * (first - second + third);
                half[3][q] = third;
            }
            for (int p = 0; p < 4; p++) {
                const float first = half[p][0], second = half[p][1], third = half[p][2];
                float *row = to + (4 * p * channels + c) * width;
                row[0] = first;
                row[channels * width] = 0.5f * (first + second + third);
                row[2 * channels * width] = 0.5f * (first - second + third);
                row[3 * channels * width] = third;
            }
        }
    }
}

/* A patch of 4 x 4 pixels, of all channels: what is transformed lies apart. */
INLINED void transform_patch(const float *restrict at, float *restrict to, int64_t line, int64_t channels, int64_t apart)
{
    for (int64_t c = 0; c < channels; c += LANES) {
        lanes half[4][4];
        for (int q = 0; q < 4; q++) {
            const float *pixel = at + q * channels + c;
            const lanes d0 = FROM(pixel), d1 = FROM(pixel + line), d2 = FROM(pixel + 2 * line), d3 = FROM(pixel + 3 * line);
            half[0][q] = d0 - d2;
            half[1][q] = d1 + d2;
            half[2][q] = d2 - d1;
            half[3][q] = d1 - d3;
        }
        for (int p = 0; p < 4; p++) {
            float *row = to + 4 * p * apart + c;
            AT(row) = half[p][0] - half[p][2];
            AT(row + apart) = half[p][1] + half[p][2];
            AT(row + 2 * apart) = half[p][2] - half[p][1];
            AT(row + 3 * apart) = half[p][1] - half[p][3];
        }
    }
}

/* What the products gave for a patch, LANES outputs, back to 2 x 2 pixels; these pooled. */
INLINED void pool_patch(const float *restrict from, lanes bias, float *restrict pooled, uint8_t *restrict position,
                        int64_t apart)
{
    lanes half[2][4];
    for (int q = 0; q < 4; q++) {
        const float *at = from + q * apart;
        const lanes m1 = FROM(at + 4 * apart), m2 = FROM(at + 8 * apart);
        half[0][q] = FROM(at) + m1 + m2;
        half[1][q] = m1 - m2 - FROM(at + 12 * apart);
    }
    lanes found[2][2];
    for (int p = 0; p < 2; p++) {
        found[p][0] = half[p][0] + half[p][1] + half[p][2] + bias;
        found[p][1] = half[p][1] - half[p][2] - half[p][3] + bias;
    }
    keep_largest(found[0][0], found[0][1], found[1][0], found[1][1], pooled, position);
}

/* As pooled_convolution, for whole LANES of channels and numbers that are finite. Room: transformed as there,
 * values [threads][VALUES * max(72, rows * columns) * (channels + 32)]. */
static void winograd(const float *maps, const float *weight, const float *bias, float *transformed, float *values,
                     float *pooled, uint8_t *position, int64_t count, int64_t height, int64_t width, int64_t channels,
                     int64_t outputs, int threads)
{
    enum { BLOCK = 2 * LANES, FEW = 72 };
    const float none[BLOCK] = {0};
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2, pixels = rows * columns;
    const int64_t line = width * channels, at_once = pixels < FEW ? FEW / pixels : 1;
    const int64_t room = VALUES * (pixels < FEW ? FEW : pixels) * (channels + 32);
    transform_weight(weight, transformed, outputs, channels, BLOCK, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        const int64_t behind = (thread + 1) * count / threads;
        for (int64_t first = thread * count / threads; first < behind; first += at_once) {
            const int64_t images = first + at_once < behind ? at_once : behind - first, patches = images * pixels;
            float *patch = values + thread * room, *products = patch + VALUES * patches * channels;
            for (int64_t n = first; n < first + images; n++)
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t j = 0; j < columns; j++, patch += channels)
                        transform_patch(maps + (n * height + 2 * i) * line + 2 * j * channels, patch, line, channels,
                                        patches * channels);
            patch -= patches * channels;
            int64_t o = 0;
#define OUTPUTS(product, vectors)                                                                                         \
    for (; o + LANES * (vectors) <= outputs; o += LANES * (vectors)) {                                                    \
        const int64_t step = LANES * (vectors);                                                                           \
        for (int v = 0; v < VALUES; v++)                                                                                  \
            product(patch + v * patches * channels, transformed + (o * VALUES + v * step) * channels, none,               \
                    products + v * patches * step, patches, channels, step);                                              \
        for (int64_t n = 0; n < patches; n++)                                                                             \
            for (int64_t lane = 0; lane < step; lane += LANES)                                                            \
                pool_patch(products + n * step + lane, FROM(bias + o + lane), pooled + (first * pixels + n) * outputs + o + lane, \
                           position + (first * pixels + n) * outputs + o + lane, patches * step);                         \
    }
            OUTPUTS(product_of_two, 2)
            OUTPUTS(product_of_one, 1)
#undef OUTPUTS
        }
    }
}

static int all_finite(const float *values, int64_t count)
{
    int bad = 0;
    for (int64_t v = 0; v < count; v++)
        bad |= values[v] - values[v] != 0;
    return !bad;
}

/* relu(max_pool2d(conv(maps))): maps [count][height][width][channels], weight [outputs][3][3][channels], bias [outputs],
 * outputs a multiple of 16; pooled and position [count][rows][columns][outputs] as in pooled_grey.
 * Room: by_tap [16][channels][outputs], values [threads][16 * max(72, rows * columns) * (channels + 32)]. */
void pooled_convolution(const float *maps, const float *weight, const float *bias, float *by_tap, float *values,
                        float *pooled, uint8_t *position, int64_t count, int64_t height, int64_t width,
                        int64_t channels, int64_t outputs, int threads)
{
    /* Winograd's transforms make numbers that are none of those that are not finite: what is wrong shall show as it is. */
    if (channels % LANES == 0 && all_finite(weight, outputs * KERNEL * KERNEL * channels)) {
        winograd(maps, weight, bias, by_tap, values, pooled, position, count, height, width, channels, outputs, threads);
        return;
    }
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2, line = width * channels;
    const int64_t taps = KERNEL * KERNEL * channels;
    const int64_t in_large = outputs - outputs % (LANES * POOLED_VECTORS);
    pack(weight, by_tap, outputs, taps, LANES * POOLED_VECTORS, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < count; n++) {
#define PIXELS_OF(o, vectors)                                                                                     \
    for (int64_t i = 0; i < rows; i++)                                                                            \
        for (int64_t j = 0; j < columns; j++) {                                                                   \
            const int64_t to = ((n * rows + i) * columns + j) * outputs + o;                                      \
            convolved_pixel(maps + (n * height + 2 * i) * line + 2 * j * channels, by_tap + o * taps, bias + o,   \
                            pooled + to, position + to, line, channels, vectors);                                 \
        }
        for (int64_t o = 0; o < in_large; o += LANES * POOLED_VECTORS)
            PIXELS_OF(o, POOLED_VECTORS);
        for (int64_t o = in_large; o < outputs; o += LANES)
            PIXELS_OF(o, 1);
#undef PIXELS_OF
    }
}

/* A part of a gradient that is not zero, and where what it is multiplied with begins. */
typedef struct {
    int32_t start;
    float flow;
} entry;

/* sum [LANES * vectors] += flow * what begins at from + start, of all entries; their number is even. */
INLINED void add_scaled(float *restrict sum, const float *restrict from, const entry *restrict entries, int64_t count,
                        const int vectors)
{
    /* Two sums of each where one alone would not keep the processor busy. */
    enum { MOST = 12, FEW = 6 };
    lanes sums[2][MOST] = {{{0}}}; /* not sum: others may just be adding to it, too */
    for (int64_t e = 0; e < count; e += 2)
        for (int which = 0; which < 2; which++) {
            const float *at = from + entries[e + which].start;
            const float flow = entries[e + which].flow;
            __asm__("" : "+r"(at)); /* one address, not one for each vector */
            for (int v = 0; v < vectors; v++)
                sums[vectors > FEW ? 0 : which][v] += flow * FROM(at + LANES * v);
        }
    for (int v = 0; v < vectors; v++)
        AT(sum + LANES * v) += vectors > FEW ? sums[0][v] : sums[0][v] + sums[1][v];
}

/* The same of any length. */
static void add_all(float *restrict sum, const float *restrict from, const entry *restrict entries, int64_t count,
                    int64_t length)
{
    int64_t t = count ? 0 : length;
#define ADD(vectors)                                                \
    for (; t + LANES * (vectors) <= length; t += LANES * (vectors)) \
    add_scaled(sum + t, from + t, entries, count, vectors)
    ADD(12);
    ADD(6);
    ADD(3);
    ADD(1);
#undef ADD
    for (; t < length; t++)
        for (int64_t e = 0; e < count; e++)
            sum[t] += entries[e].flow * from[entries[e].start + t];
}

/* Make the number of entries of a list even, with one that adds nothing: it has room for one more. */
INLINED int64_t made_even(entry *list, int64_t count)
{
    if (count % 2)
        list[count] = (entry){list[0].start, 0};
    return count + count % 2;
}

/* 0 of DEAD, else 1. Not a comparison, of which compilers make a jump that processors guess wrong half of the time. */
#define LIVES(where) (1 - ((where) >> 2))

/* Of four values pooling keeps one, and ReLU some of those: the rest of the gradient is zero and is left out. What one
 * pixel of each output leaves is added to the lists of the outputs: lists [outputs][length], found [outputs].
 * at is where the first of its four kernels stands, line how far the lower ones are from the upper. */
static void list_by_output(const float *restrict gradient, const uint8_t *restrict position, entry *restrict lists,
                           int32_t *restrict found, int64_t length, int64_t outputs, int64_t at, int64_t line,
                           int64_t channels)
{
    const int32_t starts[] = {at, at + channels, at + line, at + line + channels, 0};
    for (int64_t o = 0; o < outputs; o++, lists += length) {
        entry *to = lists + found[o]; /* what is dead is overwritten by what comes next */
        to->start = starts[position[o]];
        to->flow = gradient[o];
        found[o] += LIVES(position[o]);
    }
}

/* The same by place: the lists of a pixel's four places, one after the other from end on; gives where they end.
 * starts are those of the outputs' kernels, each size long. Room: four [4][outputs + 1]. */
static entry *list_by_place(const float *restrict gradient, const uint8_t *restrict position, entry *restrict end,
                            int32_t *restrict found, entry *restrict four, int64_t outputs, int64_t size)
{
    uint64_t counts = 0; /* four of 16 bits, in a register */
    for (int64_t o = 0; o < outputs; o++) {
        const int place = position[o] & 3;
        entry *to = four + place * (outputs + 1) + (counts >> 16 * place & 0xffff);
        to->start = o * size;
        to->flow = gradient[o];
        counts += (uint64_t)LIVES(position[o]) << 16 * place;
    }
    for (int place = 0; place < 4; place++, four += outputs + 1) {
        found[place] = made_even(four, counts >> 16 * place & 0xffff);
        memcpy(end, four, sizeof(entry) * found[place]);
        end += found[place];
    }
    return end;
}

/* What one image adds to the gradients of pooled_gradients. Room as there. */
static void image_gradients(const float *restrict maps, const float *restrict weight, const float *restrict gradient,
                            const uint8_t *restrict position, float *restrict by_map, float *restrict by_weight,
                            float *restrict by_bias, entry *restrict entries, int32_t *restrict found, int64_t height,
                            int64_t width, int64_t channels, int64_t rows, int64_t columns, int64_t outputs)
{
    const int64_t line = width * channels, run = KERNEL * channels, pixels = rows * columns, length = pixels + 1;
    for (int64_t o = 0; o < outputs; o++)
        found[o] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const int64_t from = (i * columns + j) * outputs;
            list_by_output(gradient + from, position + from, entries, found, length, outputs,
                           2 * i * line + 2 * j * channels, line, channels);
        }
    for (int64_t o = 0; o < outputs; o++) {
        entry *list = entries + o * length;
        for (int32_t e = 0; e < found[o]; e++)
            by_bias[o] += list[e].flow;
        const int64_t count = made_even(list, found[o]);
        for (int p = 0; p < KERNEL; p++)
            add_all(by_weight + (o * KERNEL + p) * run, maps + p * line, list, count, run);
    }
    entry *end = entries;
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        end = list_by_place(gradient + pixel * outputs, position + pixel * outputs, end, found + 4 * pixel,
                            entries + (outputs + 4) * pixels, outputs, KERNEL * run);
    memset(by_map, 0, sizeof(float) * height * line);
    for (int p = 0; p < KERNEL; p++) { /* outermost: a row of all kernels fits the fastest cache */
        const entry *list = entries;
        const int32_t *count = found;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                for (int k = 0; k < 4; k++) {
                    float *to = by_map + (2 * i + (k >> 1) + p) * line + (2 * j + (k & 1)) * channels;
                    add_all(to, weight + p * run, list, *count, run);
                    list += *count++;
                }
    }
}

/* The gradients of relu(max_pool2d(conv(maps))).
 * maps and by_map [count][height][width][channels], weight [outputs][3][3][channels], of less than 2^16 outputs,
 * gradient and position [count][rows][columns][outputs], where rows = (height - 2) / 2 and columns = (width - 2) / 2;
 * by_weight as weight and, right behind it, by_bias [outputs].
 * Room, where pixels = rows * columns: parts [PARTS][outputs * (9 * channels + 1)],
 * entries [PARTS][(outputs + 4) * (pixels + 4)], each of two numbers, found [PARTS][outputs + 4 * pixels]. */
void pooled_gradients(const float *maps, const float *weight, const float *gradient, const uint8_t *position,
                      float *parts, int32_t *entries, int32_t *found, float *by_map, float *by_weight_and_bias,
                      int64_t count, int64_t height, int64_t width, int64_t channels, int64_t outputs, int threads)
{
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2, pixels = rows * columns;
    const int64_t weights = outputs * KERNEL * KERNEL * channels, sums = weights + outputs;
    const int64_t map = height * width * channels, pooled = pixels * outputs;
    const int64_t room = (outputs + 4) * (pixels + 4), lists = outputs + 4 * pixels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < PARTS; part++) {
        float *by_weight = parts + part * sums;
        memset(by_weight, 0, sizeof(float) * sums);
        for (int64_t n = FIRST_OF(part, count); n < FIRST_OF(part + 1, count); n++)
            image_gradients(maps + n * map, weight, gradient + n * pooled, position + n * pooled, by_map + n * map, by_weight,
                            by_weight + weights, (entry *)entries + part * room, found + part * lists, height, width,
                            channels, rows, columns, outputs);
    }
    sum_parts(parts, by_weight_and_bias, sums, threads);
}

/* One pixel of depthwise, LANES channels times vectors of them: at is where the kernel's first tap stands, and only the taps
 * from (top, left) to before (bottom, right) are inside the map. There are step values from one pixel of the map to the next,
 * line from one row to the next, and channels from one tap of weight to the next. */
INLINED void depthwise_pixel(const float *restrict at, const float *restrict weight, const float *restrict bias,
                             float *restrict to, int64_t step, int64_t line, int64_t channels, int top, int bottom, int left,
                             int right, const int vectors)
{
    lanes sums[VECTORS];
    for (int v = 0; v < vectors; v++)
        sums[v] = FROM(bias + LANES * v);
    for (int p = top; p < bottom; p++)
        for (int q = left; q < right; q++)
            for (int v = 0; v < vectors; v++)
                sums[v] += FROM(at + p * line + q * step + LANES * v) * FROM(weight + (p * KERNEL + q) * channels + LANES * v);
    for (int v = 0; v < vectors; v++)
        AT(to + LANES * v) = relu6(sums[v]);
}

/* A few pixels of depthwise that lie in a row, LANES channels: what is read serves all of those that it is a tap of. Without
 * the first tap of the first pixel (left), or the last tap of the last (right), which are not inside the map. Inlined with
 * stride, left and right known. */
enum { IN_A_ROW = 4 };
INLINED void depthwise_row(const float *restrict at, const float *restrict weight, lanes bias, float *restrict to,
                           int64_t step, int64_t line, int64_t channels, int top, int bottom, const int stride,
                           const int left, const int right)
{
    lanes sums[IN_A_ROW] = {bias, bias, bias, bias};
    for (int p = top; p < bottom; p++) {
        lanes taps[KERNEL];
        for (int q = 0; q < KERNEL; q++)
            taps[q] = FROM(weight + (p * KERNEL + q) * channels);
#pragma GCC unroll 16
        for (int column = left; column < (IN_A_ROW - 1) * stride + KERNEL - right; column++) {
            const lanes pixel = FROM(at + p * line + column * step);
#pragma GCC unroll 4
            for (int k = 0; k < IN_A_ROW; k++)
                if (column >= k * stride && column < k * stride + KERNEL)
                    sums[k] += pixel * taps[column - k * stride];
        }
    }
    for (int k = 0; k < IN_A_ROW; k++)
        AT(to + k * channels) = relu6(sums[k]);
}

/* Some channels of some images of depthwise, a multiple of LANES, as far as pixels make up whole rows of IN_A_ROW. There are
 * step values from one pixel of maps to the next, and channels from one of weight or answers to the next. */
INLINED void depthwise_rows(const float *restrict maps, const float *restrict weight, const float *restrict bias,
                            float *restrict answers, int64_t images, int64_t height, int64_t width, int64_t some,
                            int64_t step, int64_t channels, const int stride)
{
    const int64_t rows = (height - 1) / stride + 1, columns = (width - 1) / stride + 1, line = width * step;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t row = i * stride - 1;
        const int top = row < 0, bottom = row + KERNEL > height ? height - row : KERNEL;
        for (int64_t j = 0; j + IN_A_ROW <= columns; j += IN_A_ROW) {
            const int64_t column = j * stride - 1;
            const int right = column + (IN_A_ROW - 1) * stride + KERNEL > width;
            for (int64_t n = 0; n < images; n++)
                for (int64_t v = 0; v < some; v += LANES) {
                    const float *at = maps + n * height * line + row * line + column * step + v;
                    float *to = answers + ((n * rows + i) * columns + j) * channels + v;
#define ROW(left, right) \
    depthwise_row(at, weight + v, FROM(bias + v), to, step, line, channels, top, bottom, stride, left, right)
                    if (j == 0 && right)
                        ROW(1, 1);
                    else if (j == 0)
                        ROW(1, 0);
                    else if (right)
                        ROW(0, 1);
                    else
                        ROW(0, 0);
#undef ROW
                }
        }
    }
}

/* The pixels that are left, LANES channels times vectors. */
INLINED void depthwise_pixels(const float *restrict maps, const float *restrict weight, const float *restrict bias,
                              float *restrict answers, int64_t images, int64_t height, int64_t width, int64_t step,
                              int64_t channels, int64_t stride, const int vectors)
{
    const int64_t rows = (height - 1) / stride + 1, columns = (width - 1) / stride + 1, line = width * step;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t row = i * stride - 1;
        const int top = row < 0, bottom = row + KERNEL > height ? height - row : KERNEL;
        for (int64_t j = columns - columns % IN_A_ROW; j < columns; j++) { /* of all images, as their taps are alike */
            const int64_t column = j * stride - 1;
            const int left = column < 0, right = column + KERNEL > width ? width - column : KERNEL;
            for (int64_t n = 0; n < images; n++)
                depthwise_pixel(maps + n * height * line + row * line + column * step, weight, bias,
                                answers + ((n * rows + i) * columns + j) * channels, step, line, channels, top, bottom, left,
                                right, vectors);
        }
    }
}

#define DEPTHWISE_ROWS(name, stride)                                                                                     \
    APART void name(const float *maps, const float *weight, const float *bias, float *answers, int64_t images,           \
                    int64_t height, int64_t width, int64_t some, int64_t step, int64_t channels)                         \
    {                                                                                                                    \
        depthwise_rows(maps, weight, bias, answers, images, height, width, some, step, channels, stride);                \
    }
DEPTHWISE_ROWS(depthwise_rows_of_one, 1)
DEPTHWISE_ROWS(depthwise_rows_of_two, 2)
#define DEPTHWISE_PIXELS(name, vectors)                                                                                  \
    APART void name(const float *maps, const float *weight, const float *bias, float *answers, int64_t images,           \
                    int64_t height, int64_t width, int64_t step, int64_t channels, int64_t stride)                       \
    {                                                                                                                    \
        depthwise_pixels(maps, weight, bias, answers, images, height, width, step, channels, stride, vectors);           \
    }
DEPTHWISE_PIXELS(depthwise_pixels_of_one, 1)
DEPTHWISE_PIXELS(depthwise_pixels_of_two, 2)
DEPTHWISE_PIXELS(depthwise_pixels_of_three, 3)
typedef void (*depthwise_function)(const float *, const float *, const float *, float *, int64_t, int64_t, int64_t, int64_t,
                                   int64_t, int64_t);
static const depthwise_function depthwise_rows_of[] = {depthwise_rows_of_one, depthwise_rows_of_two};
static const depthwise_function depthwise_pixels_of[] = {depthwise_pixels_of_one, depthwise_pixels_of_two,
                                                         depthwise_pixels_of_three};

/* How many channels are computed with at once: others must be a multiple of it. */
int lanes_at_once(void)
{
    return LANES;
}

/* A depthwise convolution with a padding of 1 and relu6 behind it, and what stands around it:
 * - before it, if inputs is not 0, relu6 of a 1 x 1 convolution of maps [count][height][width][inputs] to channels: expand as
 *   pack_product made it, expand_bias [channels]; otherwise maps have channels;
 * - weight [3][3][channels], bias [channels];
 * - behind it, if outputs is not 0, a 1 x 1 convolution to outputs: project as pack_product made it, project_bias [outputs].
 * answers [count][(height - 1) / stride + 1][(width - 1) / stride + 1][outputs, or channels if there are none]; if adds is not
 * 0, maps are added to them, which are of that shape.
 * Channels and outputs are multiples of LANES. Few images are taken through all of it at a time, and of the many channels in
 * between some at a time, so that nothing but maps and answers leaves the processor's caches.
 * Room, where pixels are those of the larger map, but at least 128: expanded [threads][48 * pixels],
 * deep [threads][channels * pixels]. */
void inverted_residual(const float *maps, const float *expand, const float *expand_bias, const float *weight,
                       const float *bias, const float *project, const float *project_bias, float *expanded, float *deep,
                       float *answers, int64_t count, int64_t height, int64_t width, int64_t inputs, int64_t channels,
                       int64_t outputs, int64_t stride, int64_t adds, int threads)
{
    enum { FEW = 128 };
    const int64_t pixels = height * width, at_once = pixels < FEW ? FEW / pixels : 1, room = pixels < FEW ? FEW : pixels;
    const int64_t left = ((height - 1) / stride + 1) * ((width - 1) / stride + 1), in = inputs ? inputs : channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        const int64_t behind = (thread + 1) * count / threads;
        float *some = expanded + thread * 48 * room, *all = deep + thread * channels * room;
        for (int64_t first = thread * count / threads; first < behind; first += at_once) {
            const int64_t images = first + at_once < behind ? at_once : behind - first;
            const float *from = maps + first * pixels * in;
            float *to = outputs ? all : answers + first * left * channels;
            for (int64_t o = 0, block; o < channels; o += block) {
                block = next_block(channels - o);
                const int64_t vectors = block / LANES - 1;
                if (inputs)
                    relu6_of_products[vectors](from, expand + o * inputs, expand_bias + o, some, images * pixels, 1, 0, inputs,
                                               inputs, block);
                const float *deepened = inputs ? some : from + o;
                const int64_t step = inputs ? block : channels;
                depthwise_rows_of[stride - 1](deepened, weight + o, bias + o, to + o, images, height, width, block, step,
                                              channels);
                depthwise_pixels_of[vectors](deepened, weight + o, bias + o, to + o, images, height, width, step, channels,
                                             stride);
            }
            for (int64_t o = 0, block; o < outputs; o += block) {
                block = next_block(outputs - o);
                products[block / LANES - 1](all, project + o * channels, project_bias + o, answers + first * left * outputs + o,
                                            images * left, channels, outputs);
            }
            float *made = answers + first * pixels * in;
            for (int64_t i = 0; adds && i < images * pixels * in; i++)
                made[i] += from[i];
        }
    }
}

/* relu6 of a 1 x 1 convolution of maps [pixels][inputs]; weight is what pack_product made of [outputs][inputs], bias [outputs];
 * answers [pixels][outputs], outputs a multiple of LANES. */
void pointwise_relu6(const float *maps, const float *weight, const float *bias, float *answers, int64_t pixels,
                     int64_t inputs, int64_t outputs, int threads)
{
    enum { FEW = 128 }; /* pixels at a time: they stay in the processor's caches while all of weight passes by */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        const int64_t behind = (thread + 1) * pixels / threads;
        for (int64_t first = thread * pixels / threads; first < behind; first += FEW) {
            const int64_t some = first + FEW < behind ? FEW : behind - first;
            for (int64_t o = 0, block; o < outputs; o += block) {
                block = next_block(outputs - o);
                relu6_of_products[block / LANES - 1](maps + first * inputs, weight + o * inputs, bias + o,
                                                     answers + first * outputs + o, some, 1, 0, inputs, inputs, outputs);
            }
        }
    }
}

/* relu6(conv(maps)), with a padding of 1, of maps that have few channels, as those that images begin with.
 * maps [count][height][width][inputs]; weight is what pack_product made of [outputs][3 * 3 * inputs], bias [outputs];
 * answers [count][(height - 1) / stride + 1][(width - 1) / stride + 1][outputs], outputs a multiple of LANES.
 * Room: padded [threads][(height + 2) * (width + 2) * inputs]. */
void first_convolution(const float *maps, const float *weight, const float *bias, float *padded, float *answers,
                       int64_t count, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t stride,
                       int threads)
{
    const int64_t rows = (height - 1) / stride + 1, columns = (width - 1) / stride + 1;
    const int64_t line = (width + 2) * inputs, room = (height + 2) * line;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        float *image = padded + thread * room;
        memset(image, 0, sizeof(float) * room);
        for (int64_t n = thread * count / threads; n < (thread + 1) * count / threads; n++) {
            for (int64_t i = 0; i < height; i++)
                memcpy(image + (i + 1) * line + inputs, maps + (n * height + i) * width * inputs,
                       sizeof(float) * width * inputs);
            for (int64_t o = 0, block; o < outputs; o += block) {
                block = next_block(outputs - o);
                for (int64_t i = 0; i < rows; i++)
                    relu6_of_products[block / LANES - 1](image + i * stride * line, weight + o * KERNEL * KERNEL * inputs,
                                                         bias + o, answers + (n * rows + i) * columns * outputs + o, columns,
                                                         KERNEL, line, KERNEL * inputs, stride * inputs, outputs);
            }
        }
    }
}

/* Images of bytes enlarged, between pixels in a straight line, and then normalised: value * scale + shift for each channel.
 * images [count][planes][height][width], planes as many as channels or 1, which then serves all; answers [count][rows]
 * [columns][channels]. The pixel before the place of each row and of each column: above [rows], before [columns]; how much of
 * the next one there is in it, from 0 to 1: below [rows], behind [columns]. Room: line [threads][width + 1]. */
void enlarge(const uint8_t *images, const int32_t *above, const float *below, const int32_t *before, const float *behind,
             const float *scale, const float *shift, float *line, float *answers, int64_t count, int64_t planes,
             int64_t height, int64_t width, int64_t rows, int64_t columns, int64_t channels, int threads)
{
    const int64_t each = channels / planes;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        float *restrict between = line + thread * (width + 1);
        for (int64_t n = thread * count / threads; n < (thread + 1) * count / threads; n++)
            for (int64_t plane = 0; plane < planes; plane++)
                for (int64_t i = 0; i < rows; i++) {
                    const uint8_t *restrict upper = images + ((n * planes + plane) * height + above[i]) * width;
                    const uint8_t *restrict lower = upper + (above[i] + 1 < height ? width : 0);
                    for (int64_t j = 0; j < width; j++)
                        between[j] = upper[j] + below[i] * ((float)lower[j] - (float)upper[j]);
                    between[width] = between[width - 1];
                    float *restrict to = answers + (n * rows + i) * columns * channels + plane * each;
                    for (int64_t j = 0; j < columns; j++, to += channels) {
                        const float left = between[before[j]];
                        const float value = left + behind[j] * (between[before[j] + 1] - left);
                        for (int64_t c = 0; c < each; c++)
                            to[c] = value * scale[plane * each + c] + shift[plane * each + c];
                    }
                }
    }
}

/* Cross-entropy in nats of logits [rows][classes] and labels [rows]: its sum, how many labels have the largest logit, and its
 * gradient as logits, times scale. Of each label a share (smoothing) is spread evenly over all classes, as PyTorch does. If a
 * label is none of the classes, right is -1. */
void cross_entropy(const float *restrict logits, const int64_t *restrict labels, float *restrict gradient,
                   float *restrict sum, int64_t *restrict right, float scale, float smoothing, int64_t rows, int64_t classes,
                   int threads)
{
    (void)threads;
    double total = 0;
    int64_t found = 0;
    *right = -1;
    for (int64_t n = 0; n < rows; n++, logits += classes, gradient += classes) {
        int64_t largest = 0;
        if (labels[n] < 0 || labels[n] >= classes)
            return;
        float exponentials = 0, all = 0;
        for (int64_t c = 1; c < classes; c++)
            if (logits[c] > logits[largest] || (isnan(logits[c]) && !isnan(logits[largest])))
                largest = c;
        for (int64_t c = 0; c < classes; c++) {
            gradient[c] = expf(logits[c] - logits[largest]);
            exponentials += gradient[c];
            all += logits[c];
        }
        for (int64_t c = 0; c < classes; c++)
            gradient[c] = scale * (gradient[c] / exponentials - smoothing / classes);
        gradient[labels[n]] -= scale * (1 - smoothing);
        total += logits[largest] + logf(exponentials);
        total -= smoothing > 0 ? (1 - smoothing) * logits[labels[n]] + smoothing * all / classes : logits[labels[n]];
        found += largest == labels[n];
    }
    *sum = total;
    *right = found;
}

/* Bits that are as good as chance: xoshiro128++ (Blackman and Vigna, Scrambled Linear Pseudorandom Number Generators, 2021),
 * STREAMS of it side by side, all from one seed by way of SplitMix64, as its authors advise. */
enum { STREAMS = 8, DECISIONS = 2 * STREAMS, CHUNK = 4096 };
typedef uint32_t words __attribute__((vector_size(STREAMS * sizeof(uint32_t))));
typedef int32_t words_bits __attribute__((vector_size(STREAMS * sizeof(int32_t))));
typedef float words_floats __attribute__((vector_size(STREAMS * sizeof(float)), aligned(sizeof(float))));

INLINED uint64_t split_mix(uint64_t state)
{
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
    state = (state ^ (state >> 27)) * 0x94d049bb133111eb;
    return state ^ (state >> 31);
}

INLINED words next_words(words state[4])
{
    const words sum = state[0] + state[3], shifted = state[1] << 9, drawn = ((sum << 7) | (sum >> 25)) + state[0];
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = (state[3] << 11) | (state[3] >> 21);
    return drawn;
}

/* DECISIONS values dropped or scaled, each with 16 of the bits drawn. */
INLINED void drop(const float *values, float *answers, words drawn, int32_t dropped, float scale, int64_t relu)
{
    for (int half = 0; half < 2; half++) {
        const words_bits numbers = (words_bits)(half ? drawn >> 16 : drawn & 0xffff);
        const words_floats factors = (words_floats)((numbers >= dropped) & (words_bits)((words_floats){0} + scale));
        words_floats these = *(const words_floats *)(values + half * STREAMS);
        if (relu)
            these = (words_floats)((words_bits)these & ((these > (words_floats){0}) | (these != these)));
        *(words_floats *)(answers + half * STREAMS) = these * factors;
    }
}

/* values [count], if relu is not 0 those below 0 made 0; each then made 0 with the probability dropped / 65536, or else
 * multiplied by scale. One seed always drops the same, so that gradients need only go through again. In place, if answers are
 * values. */
void dropout(const float *values, float *answers, const int64_t *seed, int64_t count, int64_t dropped, int64_t relu,
             float scale, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < count; first += CHUNK) {
        words state[4];
        for (int i = 0; i < DECISIONS; i++) {
            const uint64_t drawn = split_mix(*seed + (first / CHUNK * DECISIONS + i + 1) * 0x9e3779b97f4a7c15);
            memcpy((char *)state + i * sizeof drawn, &drawn, sizeof drawn);
        }
        const int64_t end = count - first < CHUNK ? count : first + CHUNK;
        int64_t v = first;
        for (; v + DECISIONS <= end; v += DECISIONS)
            drop(values + v, answers + v, dropped ? next_words(state) : (words){0}, dropped, scale, relu);
        if (v < end) {
            float some[DECISIONS] = {0};
            memcpy(some, values + v, (end - v) * sizeof *some);
            drop(some, some, next_words(state), dropped, scale, relu);
            memcpy(answers + v, some, (end - v) * sizeof *some);
        }
    }
}

/* LANES units of perceptron_gradients' by_weight, of some classes. */
INLINED void by_weight_of(const float *restrict gradient, const float *restrict hidden, float *restrict by_weight, int64_t rows,
                          int64_t units, int64_t classes, const int some)
{
    lanes sums[4] = {{0}};
    for (int64_t n = 0; n < rows; n++)
        for (int c = 0; c < some; c++)
            sums[c] += gradient[n * classes + c] * FROM(hidden + n * units);
    for (int c = 0; c < some; c++)
        AT(by_weight + c * units) = sums[c];
}

/* The last two layers of a perceptron, backwards: hidden [rows][units] is what dropout, with relu and scale, made of sums, and
 * weight [classes][units] and a bias made logits of it. From the gradient of these, [rows][classes]: by_sum [rows][units],
 * by_hidden_bias [units], by_weight as weight, by_bias [classes]. Units are a multiple of LANES. */
void perceptron_gradients(const float *restrict gradient, const float *restrict hidden, const float *restrict weight,
                          float *restrict by_sum, float *restrict by_hidden_bias, float *restrict by_weight,
                          float *restrict by_bias, int64_t rows, int64_t units, int64_t classes, float scale, int threads)
{
    const int many = rows * units * classes > 1 << 17; /* otherwise threads take as long to begin as they save */
#pragma omp parallel for num_threads(many ? threads : 1) schedule(static)
    for (int64_t u = 0; u < units; u += LANES) {
        lanes all = {0};
        for (int64_t n = 0; n < rows; n++) {
            lanes sum = {0};
            for (int64_t c = 0; c < classes; c++)
                sum += gradient[n * classes + c] * FROM(weight + c * units + u);
            /* what was dropped or below 0 has no part in it */
            sum = chosen(FROM(hidden + n * units + u) != (lanes){0}, sum * scale, (lanes){0});
            AT(by_sum + n * units + u) = sum;
            all += sum;
        }
        AT(by_hidden_bias + u) = all;
        int64_t c = 0;
        for (; c + 4 <= classes; c += 4)
            by_weight_of(gradient + c, hidden + u, by_weight + c * units + u, rows, units, classes, 4);
        for (; c < classes; c++)
            by_weight_of(gradient + c, hidden + u, by_weight + c * units + u, rows, units, classes, 1);
    }
    memset(by_bias, 0, classes * sizeof *by_bias);
    for (int64_t n = 0; n < rows; n++)
        for (int64_t c = 0; c < classes; c++)
            by_bias[c] += gradient[n * classes + c];
}
