/* A zstd frame of packed codes (RFC 8878): runs of one byte, and what is left in a Huffman code for each block.
 *
 * zstd's own search for repeats takes more than half of its time, and finds little more among the codes of
 * activations: what repeats is what is dead, and is one byte. Its library reads such a frame; nothing here does.
 */
#include "huffman.h"

enum {
    BLOCK = 32 << 10,
    SMALL = 256,            /* fewer bytes are not worth a code */
    MOST_RUNS = BLOCK / 8,  /* each has a whole word, see `take_runs` */
    FRAME_HEAD = 10,
    BLOCK_HEAD = 3,
    CODED_HEAD = 5 + TREE + 6 + 4, /* of coded bytes: sizes, the code, places and ends of four streams */
};

/* A byte's repeats in a row, and how many other bytes, itself the last of them, come before them. */
typedef struct {
    uint16_t before, repeats;
} Run;

/* A block: its runs, and the bytes that are left without their repeats. */
typedef struct {
    Run runs[MOST_RUNS];
    uint8_t left[BLOCK];
    size_t run_count, left_count;
} Parts;

INLINE uint64_t word_at(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

INLINE int is_one_byte(uint64_t word) { return word == (word << 8 | word >> 56); }

/* Find the runs by words of one byte: those of fifteen bytes and more, shorter ones by chance. */
INLINE void take_runs(const uint8_t *from, size_t size, Parts *parts) {
    size_t start = 0, at = 0;
    uint8_t *to = parts->left;
    parts->run_count = 0;
    while (at + 8 <= size) {
        uint64_t word = word_at(from + at);
        if (!is_one_byte(word)) {
            at += 8;
            continue;
        }
        size_t first = at, end = at + 8;
        while (first > start && from[first - 1] == from[at]) first--;
        while (end + 8 <= size && word_at(from + end) == word) end += 8;
        while (end < size && from[end] == from[at]) end++;
        size_t before = first + 1 - start;
        memcpy(to, from + start, before);
        to += before;
        parts->runs[parts->run_count++] = (Run){(uint16_t)before, (uint16_t)(end - first - 1)};
        start = at = end;
    }
    memcpy(to, from + start, size - start);
    parts->left_count = (size_t)(to - parts->left) + size - start;
}

/* Count in four tables: a byte that follows itself would wait for its count. */
INLINE void count_bytes(const uint8_t *from, size_t size, uint32_t *counts) {
    uint32_t tables[4][SYMBOLS];
    size_t i = 0;
    memset(tables, 0, sizeof tables);
    for (; i + 8 <= size; i += 8) {
        uint64_t word = word_at(from + i);
        for (int byte = 0; byte < 8; byte++) tables[byte & 3][word >> 8 * byte & 255]++;
    }
    for (; i < size; i++) tables[0][from[i]]++;
    for (int symbol = 0; symbol < SYMBOLS; symbol++)
        counts[symbol] = tables[0][symbol] + tables[1][symbol] + tables[2][symbol] + tables[3][symbol];
}

/* Write bytes in a code of their own; NULL where it would not be shorter. */
INLINE uint8_t *write_coded(uint8_t *out, const uint8_t *from, size_t size) {
    uint32_t counts[SYMBOLS], codes[SYMBOLS];
    uint8_t lengths[SYMBOLS];
    if (size < SMALL) return NULL;
    count_bytes(from, size, counts);
    int longest = code_lengths(counts, lengths);
    uint64_t bits = 0;
    for (int symbol = 0; symbol < SYMBOLS; symbol++) bits += (uint64_t)counts[symbol] * lengths[symbol];
    if (bits / 8 + CODED_HEAD >= size) return NULL;
    uint8_t *code = out + 5, *places = write_code(code, lengths, longest);
    if (!places) return NULL;
    codes_of(lengths, longest, codes);
    uint8_t *at = places + 6;
    const size_t quarter = (size + 3) / 4, last = size - 3 * quarter;
    for (int part = 0; part < 4; part++) {
        uint8_t *end = write_stream(at, from + part * quarter, part < 3 ? quarter : last, codes);
        uint16_t taken = (uint16_t)(end - at);
        if (part < 3) memcpy(places + 2 * part, &taken, 2);
        at = end;
    }
    uint64_t head = 2 | 3 << 2 | (uint64_t)size << 4 | (uint64_t)(at - code) << 22;
    memcpy(out, &head, 5);
    return at;
}

/* Write the bytes that are no repeats, coded or as they are. */
INLINE uint8_t *write_left(uint8_t *out, const uint8_t *from, size_t size) {
    uint8_t *end = write_coded(out, from, size);
    if (end) return end;
    uint32_t head = 3 << 2 | (uint32_t)size << 4;
    memcpy(out, &head, 3);
    memcpy(out + 3, from, size);
    return out + 3 + size;
}

/* A number as zstd writes it: its kind, and so many of its lowest bits. */
typedef struct {
    int kind, bits;
} Number;

INLINE int log_of(uint32_t value) { return 31 - __builtin_clz(value); }

INLINE Number of_before(uint32_t value) {
    if (value < 16) return (Number){(int)value, 0};
    if (value < 24) return (Number){16 + (int)(value - 16) / 2, 1};
    if (value < 32) return (Number){20 + (int)(value - 24) / 4, 2};
    if (value < 48) return (Number){22 + (int)(value - 32) / 8, 3};
    if (value < 64) return (Number){24, 4};
    return (Number){19 + log_of(value), log_of(value)};
}

/* Of how much more than three repeats there are. */
INLINE Number of_repeats(uint32_t value) {
    if (value < 32) return (Number){(int)value, 0};
    if (value < 40) return (Number){32 + (int)(value - 32) / 2, 1};
    if (value < 48) return (Number){36 + (int)(value - 40) / 4, 2};
    if (value < 64) return (Number){38 + (int)(value - 48) / 8, 3};
    if (value < 96) return (Number){40 + (int)(value - 64) / 16, 4};
    if (value < 128) return (Number){42, 5};
    return (Number){36 + log_of(value), log_of(value)};
}

/* The shares that zstd takes where none are stated. */
static const int8_t BEFORE[] = {
    4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1,
    -1, -1,
};
static const int8_t REPEATS[] = {
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
};

/* Write runs as repeats of the byte before: the last offset, which is 1 at a frame's start and stays so. */
INLINE uint8_t *write_runs(uint8_t *out, const Run *runs, size_t count) {
    if (count < 128) *out++ = (uint8_t)count;
    if (!count) return out;
    if (count >= 128) {
        *out++ = (uint8_t)((count >> 8) + 128);
        *out++ = (uint8_t)count;
    }
    *out++ = 1 << 4; /* the known shares for both numbers; of offsets only one kind, */
    *out++ = 0;      /* which is: the last one again */
    Table before, repeats;
    make_table(BEFORE, sizeof BEFORE, &before);
    make_table(REPEATS, sizeof REPEATS, &repeats);
    Writer writer = {0, 0, out};
    uint32_t states[2] = {0, 0};
    for (size_t i = count; i-- > 0;) {
        const uint32_t first = runs[i].before, second = runs[i].repeats - 3;
        const Number a = of_before(first), b = of_repeats(second);
        if (i == count - 1) {
            states[0] = first_state(&before, a.kind);
            states[1] = first_state(&repeats, b.kind);
        } else {
            put_symbol(&writer, &repeats, &states[1], b.kind);
            put_symbol(&writer, &before, &states[0], a.kind);
        }
        put(&writer, first & ((1u << a.bits) - 1), a.bits);
        put(&writer, second & ((1u << b.bits) - 1), b.bits);
        flush(&writer);
    }
    put_state(&writer, states[1]);
    put_state(&writer, states[0]);
    return finish(&writer);
}

/* Write a block; return its end. */
INLINE uint8_t *write_block(uint8_t *out, const uint8_t *from, size_t size, int is_last) {
    const uint32_t stored = 0, repeated = 1, coded = 2;
    uint32_t kind = coded;
    uint8_t *end = out + BLOCK_HEAD;
    size_t stated;
    Parts parts;
    take_runs(from, size, &parts);
    if (parts.left_count == 1 && parts.run_count == 1) {
        kind = repeated;
        stated = size;
        *end++ = *from;
    } else {
        end = write_left(end, parts.left, parts.left_count);
        end = write_runs(end, parts.runs, parts.run_count);
        stated = (size_t)(end - out) - BLOCK_HEAD;
        if (stated >= size) {
            kind = stored;
            stated = size;
            memcpy(out + BLOCK_HEAD, from, size);
            end = out + BLOCK_HEAD + size;
        }
    }
    uint32_t head = (uint32_t)is_last | kind << 1 | (uint32_t)stated << 3;
    memcpy(out, &head, BLOCK_HEAD);
    return end;
}

/* Return how many bytes `write_frame` may touch for so many: of what is stored in the end, more is tried. */
size_t frame_room(size_t size) { return FRAME_HEAD + size + (size / BLOCK + 1) * BLOCK_HEAD + CODED_HEAD + 64; }

/* Write a frame of fewer than 4 GiB that states its size; return what it takes. */
FOR_EACH_CPU("bmi2") size_t write_frame(const uint8_t *from, size_t size, uint8_t *out) {
    const uint32_t magic = 0xFD2FB528, stated = (uint32_t)size;
    memcpy(out, &magic, 4);
    out[4] = 2 << 6; /* the size has four bytes */
    out[5] = 5 << 3; /* the window is 32 KiB: nothing reaches beyond its block */
    memcpy(out + 6, &stated, 4);
    uint8_t *at = out + FRAME_HEAD;
    for (; size > BLOCK; from += BLOCK, size -= BLOCK) at = write_block(at, from, BLOCK, 0);
    return (size_t)(write_block(at, from, size, 1) - out);
}
