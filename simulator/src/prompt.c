#include "prompt.h"

#include "log.h"
#include "sampler.h"

#include <stdlib.h>
#include <string.h>

static const char *const MEDIA_TAGS[MEDIA_KINDS] = {"<image>", "<video>", "<audio>"};

static void add(struct prompt *prompt, uint64_t key, int32_t id, const float *row)
{
    prompt->keys = grown(prompt->keys, prompt->count, &prompt->keys_room, 1, sizeof *prompt->keys);
    prompt->ids = grown(prompt->ids, prompt->count, &prompt->ids_room, 1, sizeof *prompt->ids);
    prompt->rows = grown(prompt->rows, prompt->count, &prompt->rows_room, 1, sizeof *prompt->rows);
    prompt->keys[prompt->count] = key;
    prompt->ids[prompt->count] = id;
    prompt->rows[prompt->count++] = row;
}

static void add_row(struct prompt *prompt, const float *row, size_t width)
{
    uint64_t key = 0;
    for (size_t i = 0; i < width; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], sizeof bits);
        key = mix(key ^ bits);
    }
    add(prompt, key | 1ull << 63, -1, row);
}

#if RKLLM_GEN >= RKLLM_G5
static bool encode_by_caller(struct session *s, const char *text, size_t len, struct tokens *to)
{
    if (s->callbacks.tokenizer == NULL) {
        log_line('E', "the model has no tokenizer and tokenizer_callback is NULL");
        return false;
    }
    /* The text ends where text_len says: behind it stands what no tokenizer may read as part of it. */
    char *exact = need(malloc(len + 1));
    memcpy(exact, text, len);
    exact[len] = '#';
    int32_t most = (int32_t)len + 16;
    int32_t *ids = need(calloc((size_t)most, sizeof *ids));
    int count = s->callbacks.tokenizer(s->callbacks.tokenizer_userdata, exact, (int32_t)len, ids, most);
    bool good = count >= 0 && count <= most;
    for (int i = 0; good && i < count; i++)
        tokens_add(to, ids[i]);
    free(ids);
    free(exact);
    if (!good)
        log_line('E', "tokenizer_callback failed, ret: %d", count);
    return good;
}
#endif

bool prompt_encode(struct session *s, const char *text, size_t len, const char *plain, struct tokens *to)
{
    if (s->has_tokenizer) {
        encode(&s->vocabulary, text, len, plain, to);
        return true;
    }
#if RKLLM_GEN >= RKLLM_G5
    return encode_by_caller(s, text, len, to);
#else
    log_line('E', "the model has no tokenizer");
    return false;
#endif
}

static bool add_text(struct session *s, struct prompt *prompt, const char *text, size_t len)
{
    struct tokens tokens = {0};
    bool good = len == 0 || prompt_encode(s, text, len, NULL, &tokens);
    for (size_t i = 0; good && i < tokens.count; i++)
        add(prompt, (uint32_t)tokens.ids[i], tokens.ids[i], NULL);
    tokens_free(&tokens);
    return good;
}

static size_t occurrences(const char *text, const char *wanted)
{
    size_t count = 0;
    for (const char *at = strstr(text, wanted); at != NULL; at = strstr(at + 1, wanted))
        count++;
    return count;
}

/* mrope wants the grid of patches to have as many cells as an image has tokens. */
static bool grid_good(const struct session *s, const struct media *media)
{
    size_t patch = (size_t)model_int(s->model, "rkllm.vision.spatial_patch_size", 0);
    size_t merge = (size_t)model_int(s->model, "rkllm.vision.spatial_merge_size", 1);
    if (patch == 0 || media->width == 0 || media->height == 0)
        return true;
    size_t h = media->height / (patch * merge), w = media->width / (patch * merge);
    if (h * w == media->tokens)
        return true;
    log_line('E', "patch_h[%zu] * patch_w[%zu] != n_image_token[%zu]!", h, w, media->tokens);
    return false;
}

static bool media_good(const struct session *s, const struct input *input, int kind)
{
    const struct media *media = &input->media[kind];
    size_t wanted = occurrences(input->text, MEDIA_TAGS[kind]);
    size_t given = media->embed == NULL ? 0 : media->items;
    if (wanted != given) {
        log_line('E', "the prompt has %zu %s tags, but %zu embeddings were given", wanted, MEDIA_TAGS[kind], given);
        return false;
    }
    if (given == 0)
        return true;
    size_t width = (size_t)s->width * (size_t)s->behaviour.embedding_outputs;
    size_t floats = media->items * media->frames * media->tokens * width;
    if (!abi_readable(media->embed + floats - 1, sizeof *media->embed)) {
        log_canary("the %s embeddings are shorter than %zu floats", MEDIA_TAGS[kind], floats);
        return false;
    }
    return grid_good(s, media);
}

/* Each tag becomes start, the embedding's rows, end. */
static bool add_multimodal(struct session *s, struct prompt *prompt, const struct input *input)
{
    size_t next[MEDIA_KINDS] = {0};
    size_t width = (size_t)s->width * (size_t)s->behaviour.embedding_outputs;
    for (const char *at = bytes_text(&prompt->text); *at != 0;) {
        const char *found = NULL;
        int kind = IMAGE;
        for (int k = 0; k < MEDIA_KINDS; k++) {
            const char *here = strstr(at, MEDIA_TAGS[k]);
            if (here != NULL && (found == NULL || here < found)) {
                found = here;
                kind = k;
            }
        }
        if (found == NULL)
            return add_text(s, prompt, at, strlen(at));
        const struct media *media = &input->media[kind];
        const char *start = RKLLM_GEN >= RKLLM_G5 ? media->start : s->image_tags[0];
        const char *end = RKLLM_GEN >= RKLLM_G5 ? media->end : s->image_tags[1];
        bool good = add_text(s, prompt, at, (size_t)(found - at));
        good = good && (start == NULL || add_text(s, prompt, start, strlen(start)));
        size_t rows = media->frames * media->tokens;
        const float *first = media->embed + next[kind]++ * rows * width;
        prompt->seen = grown(prompt->seen, prompt->media, &prompt->seen_room, 1, sizeof *prompt->seen);
        prompt->seen[prompt->media] = (struct seen){prompt->count, rows};
        for (size_t row = 0; good && row < rows; row++)
            add_row(prompt, first + row * width, width);
        if (!good || (end != NULL && !add_text(s, prompt, end, strlen(end))))
            return false;
        prompt->media++;
        at = found + strlen(MEDIA_TAGS[kind]);
    }
    return true;
}

static bool add_ids(struct session *s, struct prompt *prompt, const struct input *input)
{
    if (!abi_readable(input->ids + input->count - 1, sizeof *input->ids)) {
        log_canary("input_ids is shorter than %zu tokens", input->count);
        return false;
    }
    for (size_t i = 0; i < input->count; i++) {
        int32_t id = input->ids[i];
        if (s->has_tokenizer && (id < 0 || (size_t)id >= s->vocabulary.count)) {
            log_line('E', "SIMULATOR: token id %d is outside the vocabulary of %zu", id, s->vocabulary.count);
            return false;
        }
        add(prompt, (uint32_t)id, id, NULL);
    }
    decode(&s->vocabulary, input->ids, input->count, &prompt->text);
    return true;
}

static bool add_embeddings(struct session *s, struct prompt *prompt, const struct input *input)
{
    size_t width = (size_t)s->width;
    if (!abi_readable(input->embed + input->count * width - 1, sizeof *input->embed)) {
        log_canary("embed is shorter than %zu rows of %zu floats", input->count, width);
        return false;
    }
    for (size_t row = 0; row < input->count; row++)
        add_row(prompt, input->embed + row * width, width);
    return true;
}

bool prompt_build(struct session *s, const struct lane *lane, const struct input *input, struct prompt *prompt)
{
    *prompt = (struct prompt){0};
    bool good = true;
    if (input->type == RKLLM_INPUT_TOKEN) {
        good = add_ids(s, prompt, input);
    } else if (input->type == RKLLM_INPUT_EMBED) {
        good = add_embeddings(s, prompt, input);
    } else {
        size_t system = 0;
        if (s->paused) /* what is said into a pause is no turn of its own */
            bytes_say(&prompt->text, input->text);
        else
            system = chat_render(&s->chat, input, lane->cache.history == 0, &prompt->text);
        if (system > 0 && s->has_tokenizer) {
            struct tokens front = {0};
            encode(&s->vocabulary, prompt->text.at, system, NULL, &front);
            prompt->system = front.count;
            tokens_free(&front);
        }
        if (input->type == RKLLM_INPUT_MULTIMODAL) {
            if (!s->has_vision) {
                log_line('E', "the model takes no images, videos or audio: its input type must not be multimodal");
                good = false;
            }
            for (int kind = 0; good && kind < MEDIA_KINDS; kind++)
                good = media_good(s, input, kind);
            good = good && add_multimodal(s, prompt, input);
        } else {
            good = add_text(s, prompt, bytes_text(&prompt->text), prompt->text.len);
        }
    }
    if (good) {
        bool given = input->text != NULL && !input->tool;
        prompt->user = chat_last_user(given ? input->text : bytes_text(&prompt->text));
        if (s->log_level >= 2)
            log_line('D', "prompt: %s", bytes_text(&prompt->text));
    }
    return good;
}

void prompt_free(struct prompt *prompt)
{
    free(prompt->keys);
    free(prompt->ids);
    free(prompt->rows);
    free(prompt->seen);
    bytes_free(&prompt->text);
    bytes_free(&prompt->user);
}
