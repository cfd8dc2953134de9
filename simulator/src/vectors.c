#include "vectors.h"

#include "sampler.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

static float noise(uint64_t from) /* -1 to 1 */
{
    return (float)((double)(mix(from) >> 11) / 4503599627370496.0 - 1.0);
}

/* " Cat", "cat" and "Cat" mean the same; tags, blanks and punctuation mean little. */
static uint64_t meaning(const struct session *s, int32_t id, float *weight)
{
    uint64_t hash = (uint64_t)(uint32_t)id;
    *weight = 1.0f;
    if ((size_t)(uint32_t)id >= s->vocabulary.count)
        return hash;
    const struct piece *piece = &s->vocabulary.pieces[id];
    bool word = false;
    hash = 1;
    for (uint32_t i = 0; i < piece->len; i++) {
        unsigned char byte = (unsigned char)piece->text[i];
        if (isspace(byte))
            continue;
        word |= isalnum(byte) || byte >= 0x80;
        hash = mix(hash ^ (uint64_t)tolower(byte));
    }
    if (!word || piece->kind == KIND_CONTROL)
        *weight = 0.1f;
    return hash;
}

float *vectors_hidden(const struct session *s, const struct prompt *prompt)
{
    size_t width = (size_t)s->width;
    float *rows = need(calloc(prompt->count * width + 1, sizeof *rows));
    double *sum = need(calloc(width, sizeof *sum));
    for (size_t at = 0; at < prompt->count; at++) {
        float weight = 0;
        const float *given = prompt->rows[at];
        uint64_t hash = given == NULL ? meaning(s, prompt->ids[at], &weight) : 0;
        double scale = 1.0 / sqrt((double)at + 1);
        for (size_t i = 0; i < width; i++) {
            sum[i] += given == NULL ? weight * noise(hash * 31 + i) : given[i];
            rows[at * width + i] = (float)(sum[i] * scale);
        }
    }
    free(sum);
    return rows;
}

float *vectors_logits(const struct session *s, const struct prompt *prompt, const struct tokens *reply,
                      size_t first_row)
{
    size_t size = s->vocabulary.count;
    float *rows = need(calloc((prompt->count - first_row) * size + 1, sizeof *rows));
    uint64_t past = 0;
    for (size_t at = 0; at < prompt->count; at++) {
        past = mix(past ^ prompt->keys[at]);
        if (at < first_row)
            continue;
        float *row = rows + (at - first_row) * size;
        for (size_t i = 0; i < size; i++)
            row[i] = noise(past + i);
        int32_t next = at + 1 < prompt->count ? prompt->ids[at + 1] : reply->count > 0 ? reply->ids[0] : -1;
        if (next >= 0 && (size_t)next < size)
            row[next] += 10.0f;
    }
    return rows;
}
