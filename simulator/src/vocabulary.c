#include "vocabulary.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t HASH_START = 14695981039346656037u;

static uint64_t hash_step(uint64_t hash, char byte)
{
    return (hash ^ (uint8_t)byte) * 1099511628211u;
}

static int32_t lookup(const struct vocabulary *vocabulary, uint64_t hash, const char *text, size_t len)
{
    for (size_t slot = hash & (vocabulary->slots - 1);; slot = (slot + 1) & (vocabulary->slots - 1)) {
        int32_t id = vocabulary->table[slot];
        if (id < 0)
            return -1;
        const struct piece *piece = &vocabulary->pieces[id];
        if (piece->len == len && memcmp(piece->text, text, len) == 0)
            return id;
    }
}

static void insert(struct vocabulary *vocabulary, int32_t id)
{
    const struct piece *piece = &vocabulary->pieces[id];
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < piece->len; i++)
        hash = hash_step(hash, piece->text[i]);
    size_t slot = hash & (vocabulary->slots - 1);
    while (vocabulary->table[slot] >= 0)
        slot = (slot + 1) & (vocabulary->slots - 1);
    vocabulary->table[slot] = id;
}

/* Any number that is no token: which one 1.3.0 makes of it depends on memory. */
#define NONSENSE 1065353216

struct vocabulary vocabulary_read(const struct model *model, bool reads_unsigned)
{
    struct vocabulary v = {.bos = (int32_t)model_int(model, "tokenizer.ggml.bos_token_id", -1), .slots = 64};
    size_t *lengths, kinds_count, eos_count;
    char **texts = model_texts(model, "tokenizer.ggml.tokens", &lengths, &v.count);
    int64_t *kinds = model_ints(model, "tokenizer.ggml.token_type", &kinds_count);
    int64_t *eos = model_ints(model, "tokenizer.ggml.eos_token_ids", &eos_count);

    v.pieces = need(calloc(v.count + 1, sizeof *v.pieces));
    memset(v.bytes, 0xff, sizeof v.bytes);
    while (v.slots < v.count * 2)
        v.slots *= 2;
    v.table = need(malloc(v.slots * sizeof *v.table));
    memset(v.table, 0xff, v.slots * sizeof *v.table);

    for (size_t id = 0; id < v.count; id++) {
        struct piece *piece = &v.pieces[id];
        *piece = (struct piece){texts[id], (uint32_t)lengths[id], id < kinds_count ? (uint32_t)kinds[id] : KIND_NORMAL};
        if (piece->kind == KIND_BYTE) { /* written as <0x41> */
            unsigned byte = (unsigned)strtoul(piece->text + 3, NULL, 16) & 0xff;
            piece->text[0] = (char)byte;
            piece->len = 1;
            v.bytes[byte] = (int32_t)id;
        } else if (piece->len > 0) {
            insert(&v, (int32_t)id);
            v.longest = piece->len > v.longest ? piece->len : v.longest;
        }
    }
    v.n_eos = eos_count > 0 ? eos_count : 1;
    v.eos = need(calloc(v.n_eos, sizeof *v.eos));
    v.eos[0] = (int32_t)model_int(model, "tokenizer.ggml.eos_token_id", -1);
    for (size_t i = 0; i < eos_count; i++)
        v.eos[i] = (int32_t)eos[i];
    v.end = v.eos[0];
    if (!reads_unsigned && model_unsigned(model, "tokenizer.ggml.eos_token_id"))
        for (size_t i = 0; i < v.n_eos; i++)
            v.eos[i] = NONSENSE;
    free(texts);
    free(lengths);
    free(kinds);
    free(eos);
    return v;
}

void vocabulary_free(struct vocabulary *vocabulary)
{
    for (size_t i = 0; i < vocabulary->count; i++)
        free(vocabulary->pieces[i].text);
    free(vocabulary->pieces);
    free(vocabulary->table);
    free(vocabulary->eos);
    *vocabulary = (struct vocabulary){0};
}

void encode(const struct vocabulary *vocabulary, const char *text, size_t len, const char *plain, struct tokens *to)
{
    for (size_t at = 0; at < len;) {
        int32_t best = vocabulary->bytes[(uint8_t)text[at]];
        size_t best_len = 1;
        uint64_t hash = HASH_START;
        size_t most = len - at < vocabulary->longest ? len - at : vocabulary->longest;
        for (size_t i = 0; i < most; i++) {
            hash = hash_step(hash, text[at + i]);
            int32_t id = lookup(vocabulary, hash, text + at, i + 1);
            bool tag = id >= 0 && vocabulary->pieces[id].kind == KIND_CONTROL;
            if (id >= 0 && !(tag && plain != NULL && plain[at])) {
                best = id;
                best_len = i + 1;
            }
        }
        if (best >= 0)
            tokens_add(to, best);
        at += best_len;
    }
}

void decode(const struct vocabulary *vocabulary, const int32_t *ids, size_t count, struct bytes *to)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= 0 && (size_t)ids[i] < vocabulary->count)
            bytes_add(to, vocabulary->pieces[ids[i]].text, vocabulary->pieces[ids[i]].len);
}

void tokens_add(struct tokens *to, int32_t id)
{
    to->ids = grown(to->ids, to->count, &to->room, 1, sizeof *to->ids);
    to->ids[to->count++] = id;
}

void tokens_free(struct tokens *of)
{
    free(of->ids);
    *of = (struct tokens){0};
}

size_t utf8_waiting(const char *text, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        uint8_t byte = (uint8_t)text[len - back];
        if ((byte & 0xC0) == 0x80) /* a continuation: its lead byte stands further left */
            continue;
        size_t whole = byte >= 0xF0 && byte <= 0xF4 ? 4 : byte >= 0xE0 && byte < 0xF0 ? 3 : byte >= 0xC2 && byte < 0xE0 ? 2 : 1;
        return whole > back ? back : 0;
    }
    return 0;
}
