/* Finite state entropy as zstd has it (RFC 8878, 4.1): symbols of few kinds, in bits read backwards. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "compiler.h"

enum {
    TABLE_LOG = 6,
    TABLE = 1 << TABLE_LOG, /* states */
    KINDS = 53,             /* of symbols, at most */
};

/* Bits, the lowest first. */
typedef struct {
    uint64_t bits;
    int count;
    uint8_t *at;
} Writer;

INLINE void put(Writer *writer, uint64_t value, int bits) {
    writer->bits |= value << writer->count;
    writer->count += bits;
}

/* Write what is whole; up to 56 bits may be put before it. Eight bytes are touched. */
INLINE void flush(Writer *writer) {
    memcpy(writer->at, &writer->bits, 8);
    writer->at += writer->count >> 3;
    writer->bits >>= writer->count & ~7;
    writer->count &= 7;
}

/* End what is read from its end: a 1, then zeros up to a byte. */
INLINE uint8_t *finish(Writer *writer) {
    put(writer, 1, 1);
    flush(writer);
    return writer->at + (writer->count > 0);
}

/* A symbol writes (state + bits[symbol]) >> 16 of the state's lowest bits; what is left of the state, plus
 * find[symbol], is the place of the next state. */
typedef struct {
    uint16_t states[TABLE];
    uint32_t bits[KINDS];
    int find[KINDS];
} Table;

/* Make the table of shares that add up to TABLE; -1 is the least share, of a symbol from the table's end. */
INLINE void make_table(const int8_t *shares, int kinds, Table *table) {
    uint8_t spread[TABLE];
    int next[KINDS], place = 0, total = 0, end = TABLE;
    for (int kind = 0; kind < kinds; kind++)
        if (shares[kind] < 0) spread[--end] = (uint8_t)kind;
    for (int kind = 0; kind < kinds; kind++) {
        int share = shares[kind] < 0 ? 1 : shares[kind];
        for (int i = 0; i < shares[kind]; i++) {
            spread[place] = (uint8_t)kind;
            do place = (place + (TABLE >> 1) + (TABLE >> 3) + 3) & (TABLE - 1);
            while (place >= end);
        }
        next[kind] = total;
        if (share) {
            int most = TABLE_LOG - (share > 1 ? 31 - __builtin_clz((unsigned)share - 1) : 0);
            table->bits[kind] = ((uint32_t)most << 16) - ((uint32_t)share << most);
            table->find[kind] = total - share;
        }
        total += share;
    }
    for (int state = 0; state < TABLE; state++)
        table->states[next[spread[state]]++] = (uint16_t)(TABLE + state);
}

/* The state in which the last symbol, which is written first, leaves no bits. */
INLINE uint32_t first_state(const Table *table, int kind) {
    uint32_t bits = (table->bits[kind] + (1 << 15)) >> 16;
    uint32_t state = (bits << 16) - table->bits[kind];
    return table->states[(int)(state >> bits) + table->find[kind]];
}

INLINE void put_symbol(Writer *writer, const Table *table, uint32_t *state, int kind) {
    int bits = (int)((*state + table->bits[kind]) >> 16);
    put(writer, *state & ((1u << bits) - 1), bits);
    *state = table->states[(int)(*state >> bits) + table->find[kind]];
}

INLINE void put_state(Writer *writer, uint32_t state) { put(writer, state & (TABLE - 1), TABLE_LOG); }
