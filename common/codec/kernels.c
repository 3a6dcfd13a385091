/* What quantise.py does in several passes, in one for the ranges, one for the codes and one to get values back.
 *
 * Plain C, called through ctypes, which lets other threads run meanwhile. Where it could not be compiled,
 * quantise.py works without it and makes the same bytes: every operation on a float is one correctly rounded
 * float32 operation here too, so this must be compiled with -ffp-contract=off and without -ffast-math.
 *
 * Activations are [rows][channels], the codes of a channel come out side by side, row_bytes for each channel.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "codes are packed for a little-endian machine"
#endif

#ifdef __FAST_MATH__
#error "fast math makes other bytes, and does not see a NaN"
#endif

/* Of the functions' arguments and results, for a caller who may find a file of another time. */
const int32_t version = 2;

#define INLINE static inline __attribute__((always_inline))
/* Compiled twice on x86-64; the wider one is taken where the processor has it. */
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

enum {
    LINE = 64,       /* bytes of a cache line */
    WORDS = 32,      /* of codes at a time for each channel: two cache lines of what comes out */
    CHANNELS = 128,  /* at a time: their words stay in the first-level cache */
    AHEAD = 2,       /* what is fetched into the cache is used so many groups of rows later */
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

/* Ask for lines before they are needed: what comes in is read faster, and what goes out is written faster. */
INLINE void will_read(const void *first, size_t rows, size_t stride, size_t bytes) {
    for (size_t at = 0; at < bytes; at += LINE)
        for (size_t row = 0; row < rows; row++)
            __builtin_prefetch((const char *)first + row * stride + at);
}

INLINE void will_write(const void *first, size_t rows, size_t stride, size_t bytes) {
    for (size_t at = 0; at < bytes; at += LINE)
        for (size_t row = 0; row < rows; row++)
            __builtin_prefetch((const char *)first + row * stride + at, 1);
}

INLINE float least(float a, float b) { return a < b ? a : b; }
INLINE float greatest(float a, float b) { return a > b ? a : b; }

#define DEFINE(TYPE, LOAD, SUFFIX)                                                                              \
    /* Find low[channels] and high[channels] of one row or more; return 0 where all values are finite. */       \
    FOR_EACH_CPU int32_t extremes_##SUFFIX(const TYPE *restrict x, size_t rows, size_t channels,                \
                                           float *restrict low, float *restrict high) {                         \
        uint32_t unsound = 0; /* x - x is 0, or not a number where x is not finite */                           \
        for (size_t c = 0; c < channels; c++) low[c] = high[c] = LOAD(x[c]);                                    \
        size_t row = 0;                                                                                         \
        for (; row + 4 <= rows; row += 4, x += 4 * channels) {                                                  \
            will_read(x + 4 * AHEAD * channels, 1, 0, 4 * channels * sizeof(TYPE));                             \
            for (size_t c = 0; c < channels; c++) {                                                             \
                float p = LOAD(x[c]), q = LOAD(x[channels + c]);                                                \
                float r = LOAD(x[2 * channels + c]), s = LOAD(x[3 * channels + c]);                             \
                low[c] = least(low[c], least(least(p, q), least(r, s)));                                        \
                high[c] = greatest(high[c], greatest(greatest(p, q), greatest(r, s)));                          \
                unsound |= bits_of((p - p) + (q - q)) | bits_of((r - r) + (s - s));                             \
            }                                                                                                   \
        }                                                                                                       \
        for (; row < rows; row++, x += channels)                                                                \
            for (size_t c = 0; c < channels; c++) {                                                             \
                float p = LOAD(x[c]);                                                                           \
                low[c] = least(low[c], p);                                                                      \
                high[c] = greatest(high[c], p);                                                                 \
                unsound |= bits_of(p - p);                                                                      \
            }                                                                                                   \
        return unsound != 0;                                                                                    \
    }                                                                                                           \
                                                                                                                \
    INLINE uint32_t word_##SUFFIX(const TYPE *x, size_t channels, float low, float steps, int bits, int rows) { \
        uint32_t word = 0;                                                                                      \
        _Pragma("GCC unroll 16") for (int row = 0; row < rows; row++) {                                         \
            float code = (LOAD(x[row * channels]) - low) * steps;                                               \
            word |= (bits_of(code + ROUND) & ((1u << bits) - 1)) << (row * bits);                               \
        }                                                                                                       \
        return word;                                                                                            \
    }                                                                                                           \
                                                                                                                \
    INLINE void pack_##SUFFIX(const TYPE *x, size_t rows, size_t channels, const float *low,                    \
                              const float *steps, uint8_t *out, size_t row_bytes, int bits) {                   \
        uint32_t words[WORDS][CHANNELS];                                                                        \
        const int per_word = 32 / bits;                                                                         \
        for (size_t row = 0; row < rows; row += WORDS * per_word) {                                             \
            size_t here = rows - row < (size_t)(WORDS * per_word) ? rows - row : (size_t)(WORDS * per_word);    \
            size_t whole = here / per_word, rest = here % per_word;                                             \
            for (size_t first = 0; first < channels; first += CHANNELS) {                                       \
                size_t count = channels - first < CHANNELS ? channels - first : CHANNELS;                       \
                const TYPE *from = x + row * channels + first;                                                  \
                uint8_t *to = out + first * row_bytes + row * bits / 8;                                         \
                will_write(to, count, row_bytes, 4 * WORDS);                                                    \
                for (size_t w = 0; w < whole; w++, from += per_word * channels) {                               \
                    will_read(from + AHEAD * per_word * channels, per_word, channels * sizeof(TYPE),            \
                              count * sizeof(TYPE));                                                            \
                    for (size_t c = 0; c < count; c++)                                                          \
                        words[w][c] = word_##SUFFIX(from + c, channels, low[first + c], steps[first + c], bits, \
                                                    per_word);                                                  \
                }                                                                                               \
                for (size_t c = 0; c < count; c++, to += row_bytes) {                                           \
                    for (size_t w = 0; w < whole; w++) memcpy(to + 4 * w, &words[w][c], 4);                     \
                    if (rest == 0) continue;                                                                    \
                    uint32_t last = word_##SUFFIX(from + c, channels, low[first + c], steps[first + c], bits,   \
                                                  (int)rest);                                                   \
                    memcpy(to + 4 * whole, &last, (rest * bits + 7) / 8);                                       \
                }                                                                                               \
            }                                                                                                   \
        }                                                                                                       \
    }                                                                                                           \
                                                                                                                \
    /* Write the codes (x - low) * steps, rounded, of 2, 4 or 8 bits. */                                        \
    FOR_EACH_CPU void codes_##SUFFIX(const TYPE *x, size_t rows, size_t channels, const float *low,             \
                                     const float *steps, uint8_t *out, size_t row_bytes, int32_t bits) {        \
        if (bits == 8) pack_##SUFFIX(x, rows, channels, low, steps, out, row_bytes, 8);                         \
        if (bits == 4) pack_##SUFFIX(x, rows, channels, low, steps, out, row_bytes, 4);                         \
        if (bits == 2) pack_##SUFFIX(x, rows, channels, low, steps, out, row_bytes, 2);                         \
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
FOR_EACH_CPU void values(const uint8_t *restrict codes, size_t row_bytes, size_t rows, size_t channels,
                         const float *restrict low, const float *restrict scale, float *restrict out,
                         int32_t bits) {
    if (bits == 8) unpack(codes, row_bytes, rows, channels, low, scale, out, 8);
    if (bits == 4) unpack(codes, row_bytes, rows, channels, low, scale, out, 4);
    if (bits == 2) unpack(codes, row_bytes, rows, channels, low, scale, out, 2);
}
