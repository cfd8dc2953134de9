#include "cache.h"

#include "bytes.h"
#include "sampler.h"

#include <stdlib.h>
#include <string.h>

size_t cache_match(const struct cache *cache, const uint64_t *keys, size_t count)
{
    size_t matched = 0;
    while (matched < count && cache->history + matched < cache->count &&
           cache->keys[cache->history + matched] == keys[matched])
        matched++;
    return matched;
}

void cache_cut(struct cache *cache, size_t count)
{
    if (count < cache->count)
        cache->count = count;
    if (cache->history > cache->count)
        cache->history = cache->count;
    if (cache->system > cache->count)
        cache->system = cache->count;
}

void cache_add(struct cache *cache, uint64_t key)
{
    cache->keys = grown(cache->keys, cache->count, &cache->room, 1, sizeof *cache->keys);
    cache->keys[cache->count++] = key;
}

static size_t without(size_t position, size_t start, size_t end)
{
    return position <= start ? position : position >= end ? position - (end - start) : start;
}

void cache_remove(struct cache *cache, size_t start, size_t end)
{
    if (end > cache->count)
        end = cache->count;
    if (start >= end)
        return;
    memmove(cache->keys + start, cache->keys + end, (cache->count - end) * sizeof *cache->keys);
    cache->count -= end - start;
    cache->history = without(cache->history, start, end);
    cache->system = without(cache->system, start, end);
}

uint64_t cache_digest(const struct cache *cache)
{
    uint64_t digest = mix(cache->maker ^ cache->count);
    for (size_t i = 0; i < cache->count; i++)
        digest = mix(digest ^ cache->keys[i]);
    return digest;
}

void cache_free(struct cache *cache)
{
    free(cache->keys);
    *cache = (struct cache){0};
}
