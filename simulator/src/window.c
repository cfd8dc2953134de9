#include "window.h"

#include "log.h"

bool window_make_room(const struct session *s, struct cache *cache, size_t count)
{
    size_t most = (size_t)s->load.context;
    if (count > most) {
        log_line('E', "the length of prompt is greater than max context (prompt: %zu tokens, max context: %zu)", count,
                 most);
        return false;
    }
    if (cache->history + count < most)
        return true;
    size_t keep = s->load.n_keep >= 0 ? (size_t)s->load.n_keep : cache->system;
    size_t over = cache->history + count + 1 - most;
    if (keep + over > cache->history) {
        log_line('E', "the context is not enough! (history: %zu, prompt: %zu, max context: %zu)", cache->history, count,
                 most);
        return false;
    }
    cache_cut(cache, cache->history); /* what stands behind the history would move under it */
    if (s->log_level >= 2)
        log_line('I', "context to be full[%zu], delete the kv cache in [%zu, %zu), total: %zu", most, keep, keep + over,
                 over);
    cache_remove(cache, keep, keep + over);
    return true;
}

/* How much a full window drops nobody says (row 1): half of what is not kept, as llama.cpp's examples do. */
bool window_room_for_token(const struct session *s, struct cache *cache)
{
    size_t most = (size_t)s->load.context;
    if (cache->count < most)
        return true;
    if (s->load.n_keep < 0 && !s->behaviour.window_shifts)
        return false;
    size_t keep = s->load.n_keep >= 0 ? (size_t)s->load.n_keep : cache->system;
    size_t over = (cache->count - keep + 1) / 2;
    if (s->log_level >= 2)
        log_line('I', "context to be full[%zu], delete the kv cache in [%zu, %zu), total: %zu", most, keep, keep + over,
                 over);
    cache_remove(cache, keep, keep + over);
    return true;
}
