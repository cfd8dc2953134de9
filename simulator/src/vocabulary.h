/* The model's pieces: greedy longest match with byte fallback, the same as simulator/tokenizer.py. */
#ifndef SIM_VOCABULARY_H
#define SIM_VOCABULARY_H

#include "bytes.h"
#include "model.h"

#include <stdint.h>

enum kind { KIND_NORMAL = 1, KIND_CONTROL = 3, KIND_TEXT_TAG = 4, KIND_BYTE = 6 }; /* GGUF's token types */

struct piece {
    char *text; /* the bytes that it stands for */
    uint32_t len;
    uint32_t kind;
};

struct vocabulary {
    struct piece *pieces;
    size_t count;
    size_t longest;
    int32_t *table; /* open addressing over the pieces' hashes, -1 = free */
    size_t slots;
    int32_t bytes[256];
    int32_t bos;
    int32_t end;  /* what the model says when it is done */
    int32_t *eos; /* what the library takes for that */
    size_t n_eos;
};

struct tokens {
    int32_t *ids;
    size_t count;
    size_t room;
};

/* Without `reads_unsigned`, end ids that the file keeps as UINT32 are read as nonsense. */
struct vocabulary vocabulary_read(const struct model *model, bool reads_unsigned);
void vocabulary_free(struct vocabulary *vocabulary);
/* Where `plain` (of the text's length, NULL for nowhere) is not 0, a tag such as <|im_end|> is text like any other. */
void encode(const struct vocabulary *vocabulary, const char *text, size_t len, const char *plain, struct tokens *to);
void decode(const struct vocabulary *vocabulary, const int32_t *ids, size_t count, struct bytes *to);

void tokens_add(struct tokens *to, int32_t id);
void tokens_free(struct tokens *of);

/* How many bytes at the end begin a UTF-8 character that is not complete yet; 0 when the text can be shown. */
size_t utf8_waiting(const char *text, size_t len);

#endif
