/* The functions that the library exports: handles are checked here, structs in abi.c. */
#include "log.h"
#include "pace.h"
#include "session.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

/* How the vendor's file tells its version; what reads it before loading must find the same text here. */
__attribute__((used)) static const char IDENTITY[] =
    "RKLLM SDK (version: " SIM_VERSION " | target: Linux | build: simulator)";

static bool alive(LLMHandle handle)
{
    if (handle == NULL)
        return false;
    if (session_alive(handle))
        return true;
    log_canary("%p is no handle of this library, or it was destroyed", handle);
    return false;
}

EXPORT RKLLMParam rkllm_createDefaultParam(void)
{
    return abi_defaults();
}

#if RKLLM_GEN >= RKLLM_G5
EXPORT int rkllm_init(LLMHandle *handle, RKLLMParam *param, RKLLMCallback *callback)
#else
EXPORT int rkllm_init(LLMHandle *handle, RKLLMParam *param, LLMResultCallback callback)
#endif
{
    log_line('W', "SIMULATOR: this is exo-rkllm's stand-in for librkllmrt, there is no NPU behind it");
    struct callbacks callbacks;
    struct session *session;
    if (!abi_callbacks(callback, &callbacks) || session_open(param, &callbacks, &session) != 0)
        return -1;
    *handle = session;
    return 0;
}

EXPORT int rkllm_destroy(LLMHandle handle)
{
    if (!alive(handle))
        return -1;
    struct session *s = handle;
    pthread_mutex_lock(&s->lock);
    bool own = s->running && s->has_runner && pthread_equal(s->runner, pthread_self());
    if (!own) {
        s->leaving = true;
        atomic_store(&s->abort_at, 1);
        while (s->running)
            pthread_cond_wait(&s->idle, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    if (own) {
        log_line('E', "SIMULATOR: rkllm_destroy was called inside the callback of a run");
        return -1;
    }
    faults_strike(s->behaviour.faults, s->behaviour.n_faults, AT_DESTROY, 0);
    session_forget(s);
    session_free(s);
    return 0;
}

/* Reads the arguments of a run, one input a batch element. NULL when they make no sense or the handle is busy. */
static struct input *arguments(struct session *s, const RKLLMInput *given, const RKLLMInferParam *params,
                               struct infer *infer)
{
    size_t lanes = (size_t)s->load.batch;
    struct input *inputs = need(calloc(lanes, sizeof *inputs));
    bool good = abi_infer(params, infer);
    for (size_t i = 0; good && i < lanes; i++)
        good = abi_input(given == NULL ? NULL : &given[i], &inputs[i]);
    if (good && session_begin(s)) {
        atomic_store(&s->active, true);
        return inputs;
    }
    free(inputs);
    return NULL;
}

EXPORT int rkllm_run(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata)
{
    if (!alive(handle))
        return -1;
    struct infer infer;
    struct input *inputs = arguments(handle, rkllm_input, rkllm_infer_params, &infer);
    if (inputs == NULL)
        return -1;
    int status = run(handle, inputs, &infer, userdata);
    session_end(handle);
    free(inputs);
    return status;
}

EXPORT int rkllm_run_async(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params,
                           void *userdata)
{
    if (!alive(handle))
        return -1;
    struct infer infer;
    struct input *inputs = arguments(handle, rkllm_input, rkllm_infer_params, &infer);
    if (inputs == NULL)
        return -1;
    int status = run_async(handle, inputs, &infer, userdata);
    free(inputs);
    return status;
}

EXPORT int rkllm_abort(LLMHandle handle)
{
    if (!alive(handle))
        return -1;
    struct session *s = handle;
    int64_t nobody = 0;
    atomic_compare_exchange_strong(&s->abort_at, &nobody, (int64_t)(pace_now() * 1e9));
    return 0;
}

EXPORT int rkllm_is_running(LLMHandle handle)
{
    return alive(handle) ? atomic_load(&((struct session *)handle)->active) : -1;
}

EXPORT int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *lora_adapter)
{
    if (!alive(handle))
        return -1;
    if (!abi_readable(lora_adapter, sizeof *lora_adapter) || !abi_readable(lora_adapter->lora_adapter_path, 1) ||
        !abi_readable(lora_adapter->lora_adapter_name, 1)) {
        log_canary("lora_adapter, its path or its name is no readable memory");
        return -1;
    }
    if (!session_begin(handle))
        return -1;
    int status = adapter_load(handle, lora_adapter->lora_adapter_path, lora_adapter->lora_adapter_name);
    session_end(handle);
    return status;
}

EXPORT int rkllm_load_prompt_cache(LLMHandle handle, const char *prompt_cache_path)
{
    if (!alive(handle))
        return -1;
    if (!abi_readable(prompt_cache_path, 1)) {
        log_canary("prompt_cache_path is no readable memory");
        return -1;
    }
    if (!session_begin(handle))
        return -1;
    int status = prompt_cache_load(handle, prompt_cache_path);
    session_end(handle);
    return status;
}

EXPORT int rkllm_release_prompt_cache(LLMHandle handle)
{
    if (!alive(handle) || !session_begin(handle))
        return -1;
    cache_free(&((struct session *)handle)->loaded);
    ((struct session *)handle)->loaded_waits = false;
    session_end(handle);
    return 0;
}

#if RKLLM_GEN >= RKLLM_G3

EXPORT int rkllm_set_chat_template(LLMHandle handle, const char *system_prompt, const char *prompt_prefix,
                                   const char *prompt_postfix)
{
    if (!alive(handle) || !session_begin(handle))
        return -1;
    log_line('W', "Calling rkllm_set_chat_template will disable the internal automatic chat template parsing, including "
                  "enable_thinking. Make sure your custom prompt is complete and valid.");
    chat_set(&((struct session *)handle)->chat, system_prompt, prompt_prefix, prompt_postfix);
    session_end(handle);
    return 0;
}

static void clear_all(struct session *s, int keep_system_prompt)
{
    for (int32_t i = 0; i < s->load.batch; i++) {
        struct cache *cache = &s->lanes[i].cache;
        cache_cut(cache, keep_system_prompt ? cache->system : 0);
        cache->history = cache->count;
        s->lanes[i].before = cache->count;
    }
    s->paused = false;
    s->loaded_waits = false;
    s->residue_ms = 0;
}

#if RKLLM_GEN < RKLLM_G4

EXPORT int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt)
{
    if (!alive(handle) || !session_begin(handle))
        return -1;
    clear_all(handle, keep_system_prompt);
    session_end(handle);
    return 0;
}

#else

static int clear_ranges(struct session *s, const int *start, const int *end)
{
    if (!s->paused) {
        log_line('E', "start_pos and end_pos are only valid when keep_history == 0 and the generation has been paused by "
                      "returning 1 in the callback!");
        return -1;
    }
    for (int32_t i = 0; i < s->load.batch; i++) {
        if (start[i] >= end[i])
            continue;
        if (start[i] < 0 || (size_t)end[i] > s->lanes[i].cache.count) {
            log_canary("range [%d, %d) is outside the cache of %zu positions", start[i], end[i], s->lanes[i].cache.count);
            return -1;
        }
        cache_remove(&s->lanes[i].cache, (size_t)start[i], (size_t)end[i]);
    }
    return 0;
}

EXPORT int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start_pos, int *end_pos)
{
    if (!alive(handle))
        return -1;
    struct session *s = handle;
    size_t size = (size_t)s->load.batch * sizeof(int);
    bool ranges = start_pos != NULL || end_pos != NULL;
    if (ranges && (!abi_readable(start_pos, size) || !abi_readable(end_pos, size))) {
        log_canary("start_pos %p or end_pos %p is no readable memory: from 1.2.1 on rkllm_clear_kv_cache takes 4 arguments",
                   (void *)start_pos, (void *)end_pos);
        return -1;
    }
    if (!session_begin(s))
        return -1;
    int status = 0;
    bool honoured = false;
    for (int32_t i = 0; ranges && i < s->load.batch; i++)
        honoured |= start_pos[i] < end_pos[i];
    if (honoured)
        status = clear_ranges(s, start_pos, end_pos);
    else
        clear_all(s, keep_system_prompt);
    session_end(s);
    return status;
}

EXPORT int rkllm_get_kv_cache_size(LLMHandle handle, int *cache_sizes)
{
    if (!alive(handle))
        return -1;
    struct session *s = handle;
    if (!abi_readable(cache_sizes, (size_t)s->load.batch * sizeof(int))) {
        log_canary("cache_sizes %p is no readable memory", (void *)cache_sizes);
        return -1;
    }
    for (int32_t i = 0; i < s->load.batch; i++)
        cache_sizes[i] = (int)s->lanes[i].cache.history;
    return 0;
}

EXPORT int rkllm_set_function_tools(LLMHandle handle, const char *system_prompt, const char *tools,
                                    const char *tool_response_str)
{
    if (!alive(handle) || !session_begin(handle))
        return -1;
    bool good = chat_set_tools(&((struct session *)handle)->chat, system_prompt, tools, tool_response_str);
    if (!good)
        log_line('E', "SIMULATOR: tools must be a JSON array");
    session_end(handle);
    return good ? 0 : -1;
}

EXPORT int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *cross_attn_params)
{
    if (!alive(handle))
        return -1;
    struct session *s = handle;
    const RKLLMCrossAttnParam *given = cross_attn_params;
    if (!abi_readable(given, sizeof *given) || given->num_tokens < 1 || given->num_tokens > 1 << 24) {
        log_canary("cross_attn_params is no readable memory, or its num_tokens is out of range");
        return -1;
    }
    if (!s->load.cross_attention) {
        log_line('E', "SIMULATOR: rkllm_set_cross_attn_params needs use_cross_attn = 1 at init");
        return -1;
    }
    size_t tokens = (size_t)given->num_tokens;
    size_t values = (size_t)s->layers * tokens * (size_t)s->kv_heads * (size_t)s->head_dim;
    if (given->encoder_k_cache == NULL || given->encoder_v_cache == NULL || given->encoder_mask == NULL ||
        given->encoder_pos == NULL || !abi_readable(given->encoder_k_cache + values - 1, sizeof(float)) ||
        !abi_readable(given->encoder_v_cache + values - 1, sizeof(float)) ||
        !abi_readable(given->encoder_mask + tokens - 1, sizeof(float)) ||
        !abi_readable(given->encoder_pos + tokens - 1, sizeof(int32_t))) {
        log_canary("an encoder array is shorter than %zu keys and values or %zu tokens", values, tokens);
        return -1;
    }
    if (!session_begin(s))
        return -1;
    /* The ends are read for real, so that AddressSanitizer sees an array that is too short. */
    volatile float last = given->encoder_k_cache[values - 1] + given->encoder_v_cache[values - 1] +
                          given->encoder_mask[tokens - 1] + (float)given->encoder_pos[tokens - 1];
    (void)last;
    s->encoder_tokens = given->num_tokens;
    session_end(s);
    return 0;
}

#endif
#endif
