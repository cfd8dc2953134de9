/* The KV cache as the library's user can observe it: which tokens are in it, and how many were reused. */
#ifndef SIM_CACHE_H
#define SIM_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One key a position: a token id, or a hash of an embedding row. */
struct cache {
    uint64_t *keys;
    size_t count;   /* positions that hold a computed key */
    size_t history; /* how many of them the next run continues from */
    size_t system;  /* how many at the front belong to the system prompt */
    size_t room;
    uint64_t maker; /* of the values: a hash of the adapter, or of several where they got mixed */
};

size_t cache_match(const struct cache *cache, const uint64_t *keys, size_t count); /* after the history */
void cache_cut(struct cache *cache, size_t count);
void cache_add(struct cache *cache, uint64_t key);
void cache_remove(struct cache *cache, size_t start, size_t end); /* what follows moves to the front */
uint64_t cache_digest(const struct cache *cache); /* of everything that a next token is computed on */
void cache_free(struct cache *cache);

#endif
