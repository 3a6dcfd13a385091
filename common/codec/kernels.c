/* What quantise.py does in many passes: one to find the ranges, one to write the codes, one to get values back.
 *
 * Plain C, called through ctypes, which lets other threads run meanwhile. Where it could not be compiled,
 * quantise.py works without it and makes the same bytes: every operation on a float is one correctly rounded
 * float32 operation here too, so this must be compiled with -ffp-contract=off and without -ffast-math.
 *
 * Activations are [rows][channels], the codes of a channel come out side by side, row_bytes for each channel.
 * They are read row after row, as they lie in memory: what reads several rows at once is no slower while they
 * are in a cache, and half as fast where they are not.
 */
#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"

#ifdef __FAST_MATH__
#error "fast math makes other bytes, and does not see a NaN"
#endif

/* Of the arguments and results of the functions here and in frames.c, for a caller who may find a file of another
 * time. */
const int32_t version = 4;

enum {
    LINE = 64,      /* bytes of a cache line */
    WORDS = 64,     /* of codes at a time for each channel: four cache lines of what comes out */
    CHANNELS = 128, /* at a time: their words stay in the smallest second-level cache */
};

/* 1.5 * 2^23: adding it rounds a float from 0 to 255 to the nearest whole number, halves to even, and leaves
 * that number in the lowest bits. */
static const float ROUND = 12582912.0f;

INLINE float from_float32(float value) { return value; }

INLINE float from_bfloat16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float least(float a, float b) { return a < b ? a : b; }
INLINE float greatest(float a, float b) { return a > b ? a : b; }

/* Turn the least and the greatest value of each channel into the value of code 0 and the step between codes,
 * and that step's reciprocal. Return 0 where all spans are finite. */
INLINE int32_t ranges(size_t channels, int bits, float *restrict low, float *restrict scale,
                      float *restrict steps) {
    const float levels = (float)((1 << bits) - 1);
    uint32_t unsound = 0; /* x - x is 0, or not a number where x is not finite */
    for (size_t c = 0; c < channels; c++) {
        low[c] = low[c] + 0.0f; /* of zeros of both signs either may be the least */
        float span = scale[c] - low[c];
        float step = span / levels;
        unsound |= bits_of(span - span);
        scale[c] = step >= FLT_MIN ? step : 0.0f;
        steps[c] = 1.0f / (scale[c] > 0.0f ? scale[c] : 1.0f);
    }
    return unsound != 0;
}

/* Ask for the lines that will be written, so that they are there by then. */
INLINE void will_write(const uint8_t *first, size_t rows, size_t stride, size_t bytes) {
    for (size_t at = 0; at < bytes; at += LINE)
        for (size_t row = 0; row < rows; row++) __builtin_prefetch(first + row * stride + at, 1);
}

/* Write the words that each channel has, one behind the other, and what bytes there are of one more. */
INLINE void store(const uint32_t words[WORDS][CHANNELS], size_t count, size_t bytes, uint8_t *out,
                  size_t row_bytes) {
    const size_t whole = bytes / 4;
    for (size_t c = 0; c < count; c++, out += row_bytes) {
        for (size_t w = 0; w < whole; w++) memcpy(out + 4 * w, &words[w][c], 4);
        if (bytes % 4) memcpy(out + 4 * whole, &words[whole][c], bytes % 4);
    }
}

#define DEFINE(TYPE, LOAD, SUFFIX)                                                                              \
    /* Find low[channels] and high[channels] of one row or more; return 0 where all values are finite. */       \
    INLINE int32_t extremes_##SUFFIX(const TYPE *restrict x, size_t rows, size_t channels, float *restrict low, \
                                     float *restrict high) {                                                    \
        uint32_t unsound = 0;                                                                                   \
        for (size_t c = 0; c < channels; c++) low[c] = high[c] = LOAD(x[c]);                                    \
        for (size_t row = 0; row < rows; row++, x += channels)                                                  \
            for (size_t c = 0; c < channels; c++) {                                                             \
                float value = LOAD(x[c]);                                                                       \
                low[c] = least(low[c], value);                                                                  \
                high[c] = greatest(high[c], value);                                                             \
                unsound |= bits_of(value - value);                                                              \
            }                                                                                                   \
        return unsound != 0;                                                                                    \
    }                                                                                                           \
                                                                                                                \
    INLINE void pack_##SUFFIX(const TYPE *restrict x, size_t rows, size_t channels, const float *restrict low,  \
                              const float *restrict steps, uint8_t *restrict out, size_t row_bytes, int bits) { \
        uint32_t words[WORDS][CHANNELS];                                                                        \
        const size_t per_word = 32 / bits;                                                                      \
        for (size_t row = 0; row < rows; row += WORDS * per_word) {                                             \
            size_t here = rows - row < WORDS * per_word ? rows - row : WORDS * per_word;                        \
            size_t bytes = (here * bits + 7) / 8;                                                               \
            for (size_t first = 0; first < channels; first += CHANNELS) {                                       \
                size_t count = channels - first < CHANNELS ? channels - first : CHANNELS;                       \
                const TYPE *from = x + row * channels + first;                                                  \
                uint8_t *to = out + first * row_bytes + row * bits / 8;                                         \
                will_write(to, count, row_bytes, bytes);                                                        \
                for (size_t r = 0; r < here; r++, from += channels) {                                           \
                    uint32_t *word = words[r / per_word];                                                       \
                    const int shift = (int)(r % per_word) * bits;                                               \
                    for (size_t c = 0; c < count; c++) {                                                        \
                        float code = (LOAD(from[c]) - low[first + c]) * steps[first + c];                       \
                        uint32_t placed = (bits_of(code + ROUND) & ((1u << bits) - 1)) << shift;                \
                        word[c] = shift ? word[c] | placed : placed;                                            \
                    }                                                                                           \
                }                                                                                               \
                store(words, count, bytes, to, row_bytes);                                                      \
            }                                                                                                   \
        }                                                                                                       \
    }                                                                                                           \
                                                                                                                \
    /* Write low[channels], scale[channels] and the codes (x - low) / scale, rounded, of 2, 4 or 8 bits;        \
     * steps[channels] is room to work in. Return 0, or 1 where a range is not finite: all is void then. */     \
    FOR_EACH_CPU("avx2") int32_t quantise_##SUFFIX(                                                             \
        const TYPE *restrict x, size_t rows, size_t channels, int32_t bits, float *restrict low,                \
        float *restrict scale, float *restrict steps, uint8_t *restrict out, size_t row_bytes) {                \
        if (extremes_##SUFFIX(x, rows, channels, low, scale)) return 1;                                         \
        if (ranges(channels, bits, low, scale, steps)) return 1;                                                \
        if (bits == 8) pack_##SUFFIX(x, rows, channels, low, steps, out, row_bytes, 8);                         \
        if (bits == 4) pack_##SUFFIX(x, rows, channels, low, steps, out, row_bytes, 4);                         \
        if (bits == 2) pack_##SUFFIX(x, rows, channels, low, steps, out, row_bytes, 2);                         \
        return 0;                                                                                               \
    }

DEFINE(float, from_float32, float32)
DEFINE(uint16_t, from_bfloat16, bfloat16)

/* Words[w][c] holds the codes of one channel in per_word rows, the first in the lowest bits. */
INLINE void spread(const uint32_t words[WORDS][CHANNELS], size_t rows, size_t count, size_t channels,
                   const float *low, const float *scale, float *out, int bits) {
    const size_t per_word = 32 / bits;
    for (size_t row = 0; row < rows; row++, out += channels) {
        const uint32_t *word = words[row / per_word];
        const int shift = (int)(row % per_word) * bits;
        for (size_t c = 0; c < count; c++) {
            float code = (float)(int32_t)(word[c] >> shift & ((1u << bits) - 1));
            out[c] = code * scale[c] + low[c];
        }
    }
}

INLINE void unpack(const uint8_t *codes, size_t row_bytes, size_t rows, size_t channels, const float *low,
                   const float *scale, float *out, int bits) {
    uint32_t words[WORDS][CHANNELS];
    const size_t per_word = 32 / bits;
    for (size_t row = 0; row < rows; row += WORDS * per_word) {
        size_t here = rows - row < WORDS * per_word ? rows - row : WORDS * per_word;
        size_t bytes = (here * bits + 7) / 8;
        for (size_t first = 0; first < channels; first += CHANNELS) {
            size_t count = channels - first < CHANNELS ? channels - first : CHANNELS;
            const uint8_t *from = codes + first * row_bytes + row * bits / 8;
            for (size_t c = 0; c < count; c++, from += row_bytes) {
                for (size_t w = 0; w < bytes / 4; w++) memcpy(&words[w][c], from + 4 * w, 4);
                if (bytes % 4 == 0) continue;
                words[bytes / 4][c] = 0;
                memcpy(&words[bytes / 4][c], from + bytes / 4 * 4, bytes % 4);
            }
            spread(words, here, count, channels, low + first, scale + first, out + row * channels + first, bits);
        }
    }
}

/* Write the values code * scale + low of codes of 2, 4 or 8 bits, float32 [rows][channels]. */
FOR_EACH_CPU("avx2") void dequantise(const uint8_t *restrict codes, size_t row_bytes, size_t rows,
                             size_t channels, int32_t bits, const float *restrict low,
                             const float *restrict scale, float *restrict out) {
    if (bits == 8) unpack(codes, row_bytes, rows, channels, low, scale, out, 8);
    if (bits == 4) unpack(codes, row_bytes, rows, channels, low, scale, out, 4);
    if (bits == 2) unpack(codes, row_bytes, rows, channels, low, scale, out, 2);
}
