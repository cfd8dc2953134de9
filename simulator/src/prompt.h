/* An input as the model reads it: positions for the KV cache, and the text that the answer is chosen by. */
#ifndef SIM_PROMPT_H
#define SIM_PROMPT_H

#include "session.h"

struct prompt {
    uint64_t *keys;
    int32_t *ids; /* -1 where a row of an embedding stands */
    const float **rows;
    size_t count, keys_room, ids_room, rows_room;
    size_t system; /* positions of the system section */
    size_t media;  /* images, videos and audio clips */
    struct seen {
        size_t first, count; /* positions of its rows */
    } *seen;
    size_t seen_room;
    struct bytes text;
    struct bytes user;
};

/* False, with a sentence on stdout, when the input cannot be read. */
bool prompt_build(struct session *session, const struct lane *lane, const struct input *input,
                  struct prompt *prompt);
void prompt_free(struct prompt *prompt);

/* Token ids of a text, by the model's vocabulary or the caller's tokenizer. */
bool prompt_encode(struct session *session, const char *text, size_t len, const char *plain, struct tokens *to);

#endif
