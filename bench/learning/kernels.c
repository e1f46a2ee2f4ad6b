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
#define INLINED static inline __attribute__((always_inline))

/* As many channels at once as the processor's registers have room for, and how many such sums it has registers for, with
 * what is multiplied beside them. Compilers make slow code of vectors that are longer than registers. */
#if defined(__AVX512F__)
enum { LANES = 16, PIXELS = 8, VECTORS = 3, POOLED_VECTORS = 4, GREY_VECTORS = 2 };
#elif defined(__AVX__)
enum { LANES = 8, PIXELS = 4, VECTORS = 3, POOLED_VECTORS = 2, GREY_VECTORS = 2 };
#else
enum { LANES = 4, PIXELS = 4, VECTORS = 3, POOLED_VECTORS = 2, GREY_VECTORS = 2 };
#endif
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

/* Numbers from bytes and back. GCC converts vectors of AVX2 one value at a time, and shuffles them at once. */
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__clang__)
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

/* relu(max_pool2d(conv(maps))): maps [count][height][width][channels], weight [outputs][3][3][channels], bias [outputs],
 * outputs a multiple of 16; pooled and position [count][rows][columns][outputs] as in pooled_grey.
 * Room: by_tap, as many values as weight: blocks of [3][3][channels][LANES * POOLED_VECTORS] and then of [...][LANES],
 * each of which stays in the cache while an image goes by. */
void pooled_convolution(const float *maps, const float *weight, const float *bias, float *by_tap, float *pooled,
                        uint8_t *position, int64_t count, int64_t height, int64_t width, int64_t channels,
                        int64_t outputs, int threads)
{
    const int64_t rows = (height - KERNEL + 1) / 2, columns = (width - KERNEL + 1) / 2, line = width * channels;
    const int64_t taps = KERNEL * KERNEL * channels;
    const int64_t in_large = outputs - outputs % (LANES * POOLED_VECTORS);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        const int64_t block = o < in_large ? LANES * POOLED_VECTORS : LANES;
        for (int64_t t = 0; t < taps; t++)
            by_tap[o / block * block * taps + t * block + o % block] = weight[o * taps + t];
    }
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
    int64_t t = 0;
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

INLINED lanes relu6(lanes values)
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
INLINED void
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
