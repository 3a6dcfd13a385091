/* Huffman's code for bytes, and the way zstd writes it down (RFC 8878, 4.2). */
#pragma once

#include "fse.h"

enum {
    SYMBOLS = 256,
    MAX_BITS = 11, /* of a byte's code */
    WEIGHTS = MAX_BITS + 1,
    TREE = 128,    /* bytes that the weights may take, and one that says how many */
};

/* Sort the bytes that occur, the rarest first: by the lower nine bits of their counts, then the upper nine. */
INLINE int by_count(const uint32_t *counts, int *order) {
    int others[SYMBOLS], found = 0;
    for (int symbol = 0; symbol < SYMBOLS; symbol++)
        if (counts[symbol]) order[found++] = symbol;
    for (int pass = 0; pass < 2; pass++) {
        int places[513] = {0}, *from = pass ? others : order, *to = pass ? order : others;
        for (int i = 0; i < found; i++) places[(counts[from[i]] >> 9 * pass & 511) + 1]++;
        for (int i = 0; i < 512; i++) places[i + 1] += places[i];
        for (int i = 0; i < found; i++) to[places[counts[from[i]] >> 9 * pass & 511]++] = from[i];
    }
    return found;
}

/* Find the depths of Huffman's tree over the sorted bytes: two queues, of leaves and of inner nodes. */
INLINE void tree_depths(const uint32_t *counts, const int *order, int leaves, int *depths) {
    uint32_t weights[2 * SYMBOLS];
    int parents[2 * SYMBOLS], all[2 * SYMBOLS], leaf = 0, node = leaves;
    for (int i = 0; i < leaves; i++) weights[i] = counts[order[i]];
    for (int next = leaves; next < 2 * leaves - 1; next++) {
        weights[next] = 0;
        for (int child = 0; child < 2; child++) {
            int is_leaf = leaf < leaves && (node >= next || weights[leaf] <= weights[node]);
            int taken = is_leaf ? leaf++ : node++;
            weights[next] += weights[taken];
            parents[taken] = next;
        }
    }
    all[2 * leaves - 2] = 0;
    for (int i = 2 * leaves - 3; i >= 0; i--) all[i] = all[parents[i]] + 1;
    memcpy(depths, all, (size_t)leaves * sizeof *depths);
}

/* Cut depths to MAX_BITS, and have others pay for it, so that the code stays a full one (Kraft's sum is 1). */
INLINE void limit(int *depths, int leaves) {
    int over = -(1 << MAX_BITS);
    for (int i = 0; i < leaves; i++) {
        if (depths[i] > MAX_BITS) depths[i] = MAX_BITS;
        over += 1 << (MAX_BITS - depths[i]);
    }
    for (int i = 0; over > 0; i++) /* the deepest first: they pay least at once, and are rare */
        for (; depths[i] < MAX_BITS && over > 0; depths[i]++) over -= 1 << (MAX_BITS - depths[i] - 1);
    for (int i = leaves - 1; over < 0 && i >= 0; i--) /* what was paid too much, to the most frequent */
        while (depths[i] > 1 && over + (1 << (MAX_BITS - depths[i])) <= 0) {
            over += 1 << (MAX_BITS - depths[i]);
            depths[i]--;
        }
}

/* Give each byte that occurs, two at least, the length of its code, others 0; return the longest. */
INLINE int code_lengths(const uint32_t *counts, uint8_t *lengths) {
    int order[SYMBOLS], depths[SYMBOLS], longest = 0;
    int leaves = by_count(counts, order);
    tree_depths(counts, order, leaves, depths);
    limit(depths, leaves);
    memset(lengths, 0, SYMBOLS);
    for (int i = 0; i < leaves; i++) {
        lengths[order[i]] = (uint8_t)depths[i];
        if (depths[i] > longest) longest = depths[i];
    }
    return longest;
}

/* Codes by length, then by byte, as the reader makes them: the code in the lower half, its length above. */
INLINE void codes_of(const uint8_t *lengths, int longest, uint32_t *codes) {
    uint32_t of_length[MAX_BITS + 1] = {0}, next[MAX_BITS + 1], first = 0;
    for (int symbol = 0; symbol < SYMBOLS; symbol++) of_length[lengths[symbol]]++;
    for (int bits = longest; bits > 0; bits--) {
        next[bits] = first;
        first = (first + of_length[bits]) >> 1;
    }
    for (int symbol = 0; symbol < SYMBOLS; symbol++) {
        uint32_t bits = lengths[symbol];
        codes[symbol] = bits ? next[bits]++ | bits << 16 : 0;
    }
}

/* Share TABLE among the weights as they occur, two kinds at least; return how many kinds there may be. */
INLINE int shares_of(const uint8_t *weights, int count, int8_t *shares) {
    int counts[WEIGHTS] = {0}, left = TABLE, kinds = 0, most = 0;
    for (int i = 0; i < count; i++) counts[weights[i]]++;
    if (counts[weights[0]] == count) counts[!weights[0]] = 1; /* one more: a state of one kind leaves no bits */
    for (int weight = 0; weight < WEIGHTS; weight++) {
        int share = counts[weight] * TABLE / count;
        shares[weight] = (int8_t)(counts[weight] && !share ? 1 : share);
        left -= shares[weight];
        if (shares[weight]) kinds = weight + 1;
        if (shares[weight] > shares[most]) most = weight;
    }
    shares[most] = (int8_t)(shares[most] + left); /* what the rare ones got too much: they are fewer */
    return kinds;
}

INLINE uint8_t *write_shares(uint8_t *out, const int8_t *shares) {
    Writer writer = {0, 0, out};
    int remaining = TABLE + 1, threshold = TABLE, bits = TABLE_LOG + 1;
    put(&writer, TABLE_LOG - 5, 4);
    for (int weight = 0; remaining > 1;) {
        int value = shares[weight++], spare = 2 * threshold - 1 - remaining;
        int is_none = value == 0;
        remaining -= value++;
        if (value >= threshold) value += spare;
        put(&writer, (uint64_t)value, bits - (value < spare));
        for (; remaining < threshold; threshold >>= 1) bits--;
        if (is_none) { /* how many others follow that do not occur either, three at a time */
            int more = 0;
            while (!shares[weight + more]) more++;
            weight += more;
            for (; more >= 3; more -= 3) put(&writer, 3, 2);
            put(&writer, (uint64_t)more, 2);
        }
        flush(&writer);
    }
    return writer.at + (writer.count > 0);
}

/* Write the weights from the last to the first with two states in turn; NULL where they do not fit. */
INLINE uint8_t *write_coded_weights(uint8_t *out, const uint8_t *weights, int count) {
    int8_t shares[WEIGHTS];
    if (count < 2) return NULL;
    Table table;
    make_table(shares, shares_of(weights, count, shares), &table);
    Writer writer = {0, 0, write_shares(out + 1, shares)};
    uint32_t states[2];
    int at = count, turn = (count & 1) == 0;
    states[turn] = first_state(&table, weights[--at]);
    states[!turn] = first_state(&table, weights[--at]);
    for (; at > 0; turn = !turn) {
        put_symbol(&writer, &table, &states[turn], weights[--at]);
        flush(&writer);
    }
    put_state(&writer, states[1]);
    put_state(&writer, states[0]);
    uint8_t *end = finish(&writer);
    if (end - out > TREE) return NULL;
    *out = (uint8_t)(end - out - 1);
    return end;
}

/* Write the code of the bytes up to the last that occurs, whose weight follows; NULL where it cannot be. */
INLINE uint8_t *write_code(uint8_t *out, const uint8_t *lengths, int longest) {
    uint8_t weights[SYMBOLS], *end;
    int count = SYMBOLS - 1;
    while (!lengths[count]) count--;
    for (int i = 0; i < count; i++) weights[i] = lengths[i] ? (uint8_t)(longest + 1 - lengths[i]) : 0;
    weights[count] = 0;
    end = write_coded_weights(out, weights, count);
    if (end || count > TREE) return end;
    *out++ = (uint8_t)(127 + count); /* four bits each */
    for (int i = 0; i < count; i += 2) *out++ = (uint8_t)(weights[i] << 4 | weights[i + 1]);
    return out;
}

/* Write the codes of some bytes, from the last to the first. */
INLINE uint8_t *write_stream(uint8_t *out, const uint8_t *from, size_t size, const uint32_t *codes) {
    Writer writer = {0, 0, out};
    for (; size & 3; size--) put(&writer, codes[from[size - 1]] & 0xffff, (int)(codes[from[size - 1]] >> 16));
    flush(&writer);
    for (; size; size -= 4) { /* two and two: each would wait for where the one before it ended */
        uint32_t a = codes[from[size - 1]], b = codes[from[size - 2]];
        uint32_t c = codes[from[size - 3]], d = codes[from[size - 4]];
        uint64_t ab = (a & 0xffff) | (uint64_t)(b & 0xffff) << (a >> 16);
        uint64_t cd = (c & 0xffff) | (uint64_t)(d & 0xffff) << (c >> 16);
        int bits = (int)((a >> 16) + (b >> 16));
        put(&writer, ab | cd << bits, bits + (int)((c >> 16) + (d >> 16)));
        flush(&writer);
    }
    return finish(&writer);
}
