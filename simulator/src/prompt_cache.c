/* Prompt cache files: the positions of a run, as large on disk as the real KV values would be (sparse). */
#include "log.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIND 43    /* first word, a mark of our own: nobody says what the real one means */
#define STATE 7627 /* row 9: what stands before the values beside the last position's logits, in Qwen3-4B's files */

struct header {
    int32_t kind;
    int32_t unused;
    int32_t tokens;
    int32_t unused_too;
    uint64_t fingerprint;
    uint64_t maker;
};

static bool supported(const struct session *s)
{
    if (strncmp(model_architecture(s->model), "rwkv", 4) != 0)
        return true;
    log_line('W', "prompt cache is not supported for %s", model_architecture(s->model));
    return false;
}

int prompt_cache_load(struct session *s, const char *path)
{
    struct stat about;
    struct header header;
    if (!supported(s))
        return -1;
    if (stat(path, &about) != 0) {
        log_line('E', "prompt cache file '%s' does not exist", path);
        return -1;
    }
    if (about.st_size == 0) {
        log_line('E', "prompt cache file '%s' is empty", path);
        return -1;
    }
    FILE *file = fopen(path, "rbe");
    bool good = file != NULL && fread(&header, sizeof header, 1, file) == 1 && header.kind == KIND &&
                header.tokens >= 0 && (int64_t)header.tokens * 8 <= about.st_size;
    if (good && header.fingerprint != model_fingerprint(s->model)) {
        log_line('E', "the prompt dose not match the current model[%s]", model_path(s->model));
        fclose(file);
        return -1;
    }
    struct cache loaded = {.maker = header.maker};
    for (int32_t i = 0; good && i < header.tokens; i++) {
        uint64_t key;
        good = fread(&key, sizeof key, 1, file) == 1;
        cache_add(&loaded, good ? key : 0);
    }
    if (file != NULL)
        fclose(file);
    if (!good) {
        cache_free(&loaded);
        log_line('E', "failed to load prompt cache from %s", path);
        return -1;
    }
    cache_free(&s->loaded);
    s->loaded = loaded;
    s->loaded_waits = true;
    s->poisoned = s->was_aborted && s->behaviour.load_after_abort_crashes;
    return 0;
}

void prompt_cache_take_up(struct session *s)
{
    struct cache *cache = &s->lanes[0].cache;
    cache_cut(cache, 0);
    for (size_t i = 0; i < s->loaded.count; i++)
        cache_add(cache, s->loaded.keys[i]);
    cache->history = cache->count;
    cache->maker = s->loaded.maker;
}

bool prompt_cache_save(struct session *s, const char *path, size_t count)
{
    const struct cache *cache = &s->lanes[0].cache;
    if (!supported(s))
        return false;
    if (path == NULL)
        path = "./prompt_cache.bin";
    bool hybrid = strncmp(model_architecture(s->model), "qwen35", 6) == 0;
    if (hybrid && !s->behaviour.saves_hybrid) {
        log_line('E', "failed to save prompt cache to %s", path);
        return false;
    }
    int64_t fixed = s->behaviour.cache_fixed_bytes;
    if (fixed < 0)
        fixed = (int64_t)s->vocabulary.count * (int64_t)sizeof(float) + STATE;
    FILE *file = fopen(path, "wbe");
    struct header header = {.kind = KIND, .tokens = (int32_t)count, .fingerprint = model_fingerprint(s->model),
                            .maker = cache->maker};
    size_t token = 2 * 2 * (size_t)s->layers * (size_t)s->kv_heads * (size_t)s->head_dim + 16;
    bool good = file != NULL && fwrite(&header, sizeof header, 1, file) == 1 &&
                fwrite(cache->keys, sizeof *cache->keys, count, file) == count && fflush(file) == 0 &&
                ftruncate(fileno(file), (off_t)((size_t)fixed + count * token)) == 0;
    if (file != NULL)
        fclose(file);
    if (!good)
        log_line('E', "failed to save prompt cache to %s", path);
    return good;
}
