/* What the codec's C files ask of a compiler. */
#pragma once

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "codes are packed for a little-endian machine"
#endif

#define INLINE static inline __attribute__((always_inline))
/* Compiled twice on x86-64: the one with these instructions is taken where the processor has them. */
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_CPU(INSTRUCTIONS) __attribute__((target_clones(INSTRUCTIONS, "default")))
#else
#define FOR_EACH_CPU(INSTRUCTIONS)
#endif
