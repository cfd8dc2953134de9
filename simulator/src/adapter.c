/* LoRA adapters: a simulated adapter is a simulated model file whose reply replaces the base model's.
 *
 * Whether the vendor's cache minds who computed a prefix is not known. This one does not: the worse of the two. */
#include "log.h"
#include "sampler.h"
#include "session.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct adapter *adapter_named(const struct session *s, const char *name)
{
    for (size_t i = 0; i < s->n_adapters; i++)
        if (strcmp(s->adapters[i].name, name) == 0)
            return &s->adapters[i];
    return NULL;
}

uint64_t adapter_hash(const struct adapter *adapter)
{
    uint64_t hash = 0;
    for (const char *at = adapter == NULL ? "" : adapter->name; *at != 0; at++)
        hash = mix(hash ^ (uint8_t)*at);
    return hash;
}

int adapter_load(struct session *s, const char *path, const char *name)
{
    if (access(path, F_OK) != 0) {
        log_line('E', "Lora adapter path does not exist!");
        return -1;
    }
    if (adapter_named(s, name) != NULL) {
        log_line('E', "Lora adapter '%s' is already initialized!", name);
        return -1;
    }
    struct model *file = model_open(path, SIM_VERSION);
    if (file == NULL)
        return -1;
    struct adapter adapter = {.name = copied(name)};
    adapter.reply.at = model_text(file, "sim.reply", &adapter.reply.len);
    if (adapter.reply.at == NULL)
        adapter.reply.at = copied("");
    model_close(file);

    s->adapters = need(realloc(s->adapters, (s->n_adapters + 1) * sizeof *s->adapters));
    s->adapters[s->n_adapters++] = adapter;
    return 0;
}
