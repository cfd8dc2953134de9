#include "abi.h"

#include "log.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Limits of ours: what is above is another field's bytes. */
#define CONTEXT_MOST (1 << 24)
#define BATCH_MOST 64 /* as above */

/* Booleans are read as bytes, since loading a bool that holds 0xA5 is undefined. */
#define BYTE(of, field) ((int)((const unsigned char *)&(of)->field)[0])

/* As the vendor's own were read from its libraries (rkllm-runtime 2.2). */
RKLLMParam abi_defaults(void)
{
    RKLLMParam param;
    memset(&param, 0, sizeof param);
    param.max_context_len = 512;
    param.max_new_tokens = -1;
    param.top_k = 40;
    param.top_p = 0.9f;
    param.temperature = 0.8f;
    param.repeat_penalty = 1.1f;
    param.mirostat_tau = 5.0f;
    param.mirostat_eta = 0.1f;
    param.skip_special_token = true;
#if RKLLM_GEN >= RKLLM_G3
    param.n_keep = -1;
    param.extend_param.embed_flash = 1;
    param.extend_param.enabled_cpus_num = 4;
    /* The vendor sets no mask for other CPU counts: what the caller gets then is whatever stood there. */
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    param.extend_param.enabled_cpus_mask = online == 8 ? 0xF0 : online == 4 ? 0x0F : 0xA5A5A5A5u;
#endif
#if RKLLM_GEN >= RKLLM_G4
    param.extend_param.n_batch = 1;
#endif
#if RKLLM_GEN < RKLLM_G5
    param.img_start = param.img_end = param.img_content = "";
#endif
    memset(param.extend_param.reserved, 0xA5, sizeof param.extend_param.reserved);
    return param;
}

bool abi_readable(const void *at, size_t len)
{
    char into[4096];
    if (at == NULL || (uintptr_t)at < 4096)
        return false;
    if (len == 0)
        return true;
    struct iovec mine = {into, len < sizeof into ? len : sizeof into};
    struct iovec theirs = {(void *)(uintptr_t)at, mine.iov_len};
    ssize_t got = process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0);
    /* Where the call itself is forbidden or missing (a sandbox, qemu-user) nothing can be said against the pointer. */
    return got == (ssize_t)mine.iov_len || (got < 0 && errno != EFAULT);
}

static bool readable_text(const char *text)
{
    return text == NULL || abi_readable(text, 1);
}

static bool number_within(const char *name, double value, double least, double most)
{
    if (value >= least && value <= most)
        return true;
    log_canary("%s is %g, expected %g to %g", name, value, least, most);
    return false;
}

static bool pointer_good(const char *name, const void *at, size_t len)
{
    if (abi_readable(at, len))
        return true;
    log_canary("%s points to %p, which is no readable memory", name, at);
    return false;
}

/* Whether an address holds code. Unknown (no /proc) counts as `otherwise`. */
static bool is_code(const void *at, bool otherwise)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == NULL)
        return otherwise;
    char line[512];
    bool found = false, code = false;
    while (!found && fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, end;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, rights) != 3)
            continue;
        found = (uintptr_t)at >= start && (uintptr_t)at < end;
        code = found && rights[2] == 'x';
    }
    fclose(maps);
    return code;
}

static bool sampling_good(const struct sampling *s)
{
    return number_within("top_k", s->top_k, -1, 1000000) && number_within("top_p", s->top_p, 0, 1.001) &&
           number_within("temperature", s->temperature, 0, 100) &&
           number_within("repeat_penalty", s->repeat_penalty, 0, 100) &&
           number_within("frequency_penalty", s->frequency_penalty, -2, 2) &&
           number_within("presence_penalty", s->presence_penalty, -2, 2) &&
           number_within("mirostat", s->mirostat, 0, 2) && number_within("mirostat_tau", s->mirostat_tau, 0, 1000) &&
           number_within("mirostat_eta", s->mirostat_eta, 0, 1000);
}

bool abi_load(const RKLLMParam *param, struct load *load)
{
    *load = (struct load){0};
    if (!pointer_good("param", param, sizeof *param))
        return false;
    const RKLLMExtendParam *extend = &param->extend_param;
    load->model_path = param->model_path;
    load->context = param->max_context_len;
    load->max_new = param->max_new_tokens;
    load->n_keep = -1;
    load->sampling = (struct sampling){
        .top_k = param->top_k,
        .top_p = param->top_p,
        .temperature = param->temperature,
        .repeat_penalty = param->repeat_penalty,
        .frequency_penalty = param->frequency_penalty,
        .presence_penalty = param->presence_penalty,
        .mirostat = param->mirostat,
        .mirostat_tau = param->mirostat_tau,
        .mirostat_eta = param->mirostat_eta,
    };
    load->domain = extend->base_domain_id;
    load->batch = 1;
    bool good = pointer_good("model_path", param->model_path, 1) &&
                number_within("max_context_len", load->context, 1, CONTEXT_MOST) &&
                number_within("max_new_tokens", load->max_new, -1, CONTEXT_MOST) &&
                number_within("skip_special_token", BYTE(param, skip_special_token), 0, 1) &&
                number_within("is_async", BYTE(param, is_async), 0, 1);
    if (!good)
        return false;
    load->skip_special = param->skip_special_token;
#if RKLLM_GEN < RKLLM_G5
    load->image_tags[0] = param->img_start;
    load->image_tags[1] = param->img_end;
    load->image_tags[2] = param->img_content;
    for (int i = 0; i < 3; i++)
        if (!readable_text(load->image_tags[i]))
            return pointer_good("img_start/img_end/img_content", load->image_tags[i], 1);
#else
    if (!number_within("ignore_eos_token", BYTE(param, ignore_eos_token), 0, 1))
        return false;
    load->ignore_eos = param->ignore_eos_token;
#endif
#if RKLLM_GEN >= RKLLM_G3
    load->n_keep = param->n_keep;
    load->cpus = extend->enabled_cpus_num;
    load->cpu_mask = extend->enabled_cpus_mask;
    if (load->n_keep >= load->context) { /* the vendor's own check: a 1.1.x struct ends here, with top_p's bits as n_keep */
        log_line('E', "The n_keep must be less than the max_context_len");
        return false;
    }
    if (!number_within("n_keep", load->n_keep, -1, CONTEXT_MOST) ||
        !number_within("embed_flash", extend->embed_flash, 0, 1) ||
        !number_within("enabled_cpus_num", load->cpus, 0, 64))
        return false;
#endif
#if RKLLM_GEN >= RKLLM_G4
    load->batch = extend->n_batch;
    load->cross_attention = extend->use_cross_attn;
    if (!number_within("n_batch", load->batch, 1, BATCH_MOST) ||
        !number_within("use_cross_attn", extend->use_cross_attn, 0, 1))
        return false;
#endif
    if (load->domain < 0) {
        log_line('E', "base_domain_id must >= 0, but current base_domain_id is %d", load->domain);
        return false;
    }
    return number_within("base_domain_id", load->domain, 0, 1 << 16) && sampling_good(&load->sampling);
}

#if RKLLM_GEN >= RKLLM_G5
bool abi_callbacks(const RKLLMCallback *given, struct callbacks *callbacks)
{
    if (!pointer_good("callback", given, sizeof *given))
        return false;
    if (is_code(given, false)) {
        log_canary("callback is a function, from 1.3.0 on it is a struct RKLLMCallback");
        return false;
    }
    *callbacks = (struct callbacks){
        .result = given->result_callback,
        .userdata = given->result_userdata,
        .tokenizer = given->tokenizer_callback,
        .tokenizer_userdata = given->tokenizer_userdata,
        .embed = given->embed_callback,
        .embed_userdata = given->embed_userdata,
    };
    const void *functions[] = {*(void *const *)&given->result_callback, *(void *const *)&given->tokenizer_callback,
                               *(void *const *)&given->embed_callback};
    for (int i = 0; i < 3; i++)
        if ((i == 0 || functions[i] != NULL) && !is_code(functions[i], functions[i] != NULL)) {
            log_canary("pointer %d of RKLLMCallback, %p, is no function", i, functions[i]);
            return false;
        }
    return true;
}
#else
bool abi_callbacks(LLMResultCallback given, struct callbacks *callbacks)
{
    *callbacks = (struct callbacks){.result = given};
    const void *function = *(void *const *)&given;
    if (is_code(function, function != NULL))
        return true;
    log_canary("callback is %p, which is no function; a struct RKLLMCallback exists from 1.3.0 on", function);
    return false;
}
#endif

static bool media_good(const struct media *media, const char *kind)
{
    if (media->embed == NULL && media->items == 0)
        return true;
    return number_within(kind, (double)media->items, 1, 4096) &&
           number_within("tokens of one medium", (double)media->tokens, 1, CONTEXT_MOST) &&
           number_within("frames", (double)media->frames, 1, 65536) &&
           number_within("width", (double)media->width, 0, 65536) &&
           number_within("height", (double)media->height, 0, 65536) &&
           pointer_good("embeddings", media->embed, media->items * media->frames * media->tokens * sizeof(float)) &&
           (media->start == NULL || pointer_good("start tag", media->start, 1)) &&
           (media->end == NULL || pointer_good("end tag", media->end, 1)) &&
           (media->content == NULL || pointer_good("content tag", media->content, 1));
}

static bool multimodal(const RKLLMMultiModalInput *given, struct input *input)
{
    input->text = given->prompt;
#if RKLLM_GEN < RKLLM_G5
    struct media *image = &input->media[IMAGE];
    *image = (struct media){.embed = given->image_embed, .tokens = given->n_image_tokens, .items = 1, .frames = 1};
#if RKLLM_GEN >= RKLLM_G3B
    image->items = given->n_image;
    image->width = given->image_width;
    image->height = given->image_height;
#endif
#else
    input->media[IMAGE] = (struct media){
        .embed = given->image.image_embed,
        .tokens = given->image.n_image_tokens,
        .items = given->image.n_image,
        .frames = 1,
        .start = given->image.image_start,
        .end = given->image.image_end,
        .content = given->image.image_content,
        .width = given->image.image_width,
        .height = given->image.image_height,
    };
    input->media[VIDEO] = (struct media){
        .embed = given->video.video_embed,
        .tokens = given->video.n_frame_tokens,
        .items = given->video.n_video,
        .frames = given->video.n_frame_per_video,
        .start = given->video.video_start,
        .end = given->video.video_end,
        .content = given->video.video_content,
        .width = given->video.frame_width,
        .height = given->video.frame_height,
    };
#endif
#if RKLLM_GEN >= RKLLM_G6
    input->media[AUDIO] = (struct media){
        .embed = given->audio.audio_embed,
        .tokens = given->audio.n_audio_tokens,
        .items = given->audio.n_audio,
        .frames = 1,
        .start = given->audio.audio_start,
        .end = given->audio.audio_end,
        .content = given->audio.audio_content,
    };
#endif
    return pointer_good("prompt", given->prompt, 1) && media_good(&input->media[IMAGE], "n_image") &&
           media_good(&input->media[VIDEO], "n_video") && media_good(&input->media[AUDIO], "n_audio");
}

bool abi_input(const RKLLMInput *given, struct input *input)
{
    *input = (struct input){0};
    if (given == NULL) {
        if (log_level() >= 2)
            log_line('D', "rkllm_input is NULL");
        return false;
    }
    /* The union's largest arm may lie past a smaller one that the caller allocated: only the head is required here. */
    if (!pointer_good("rkllm_input", given, offsetof(RKLLMInput, prompt_input) + 2 * sizeof(void *)))
        return false;
    if ((unsigned)given->input_type > RKLLM_INPUT_MULTIMODAL) {
        log_canary("input_type is %u, expected 0 to 3", (unsigned)given->input_type);
        return false;
    }
    input->type = given->input_type;
#if RKLLM_GEN >= RKLLM_G4
    if (!number_within("enable_thinking", BYTE(given, enable_thinking), 0, 1))
        return false;
    input->no_thinking = !given->enable_thinking;
    if (given->role != NULL) {
        if (!pointer_good("role", given->role, 1))
            return false;
        input->tool = strcmp(given->role, "tool") == 0;
        if (!input->tool && strcmp(given->role, "user") != 0)
            log_line('W', "SIMULATOR: role is neither \"user\" nor \"tool\", taken as \"user\"");
    }
#endif
    switch (input->type) {
    case RKLLM_INPUT_PROMPT:
        input->text = given->prompt_input;
        return pointer_good("prompt_input", input->text, 1);
    case RKLLM_INPUT_TOKEN:
        input->ids = given->token_input.input_ids;
        input->count = given->token_input.n_tokens;
        return number_within("n_tokens", (double)input->count, 1, CONTEXT_MOST) &&
               pointer_good("input_ids", input->ids, input->count * sizeof *input->ids);
    case RKLLM_INPUT_EMBED:
        input->embed = given->embed_input.embed;
        input->count = given->embed_input.n_tokens;
        return number_within("n_tokens", (double)input->count, 1, CONTEXT_MOST) &&
               pointer_good("embed", input->embed, input->count * sizeof *input->embed);
    default:
        return pointer_good("rkllm_input", given, sizeof *given) && multimodal(&given->multimodal_input, input);
    }
}

bool abi_infer(const RKLLMInferParam *given, struct infer *infer)
{
    *infer = (struct infer){0};
    if (given == NULL) {
        if (log_level() >= 2)
            log_line('D', "rkllm_infer_params is NULL");
        return true;
    }
    if (!pointer_good("rkllm_infer_params", given, sizeof *given))
        return false;
    const unsigned modes = RKLLM_GEN < RKLLM_G3 ? 1 : 2;
    if (!number_within("mode", (unsigned)given->mode, 0, modes))
        return false;
    infer->mode = given->mode;
    if (given->lora_params != NULL) {
        if (!pointer_good("lora_params", given->lora_params, sizeof *given->lora_params) ||
            !readable_text(given->lora_params->lora_adapter_name))
            return false;
        infer->lora = given->lora_params->lora_adapter_name;
    }
    const RKLLMPromptCacheParam *cache = given->prompt_cache_params;
    if (cache != NULL) {
        if (!pointer_good("prompt_cache_params", cache, sizeof *cache) ||
            !number_within("save_prompt_cache", cache->save_prompt_cache, 0, 1) ||
            (cache->prompt_cache_path != NULL && !pointer_good("prompt_cache_path", cache->prompt_cache_path, 1)))
            return false;
        infer->save_cache = cache->save_prompt_cache;
        infer->cache_path = cache->prompt_cache_path;
    }
#if RKLLM_GEN >= RKLLM_G3
    if (!number_within("keep_history", given->keep_history, 0, 1))
        return false;
    infer->keep_history = given->keep_history;
#endif
#if RKLLM_GEN >= RKLLM_G5
    if (!number_within("max_new_tokens", given->max_new_tokens, -1, CONTEXT_MOST))
        return false;
    infer->max_new = given->max_new_tokens;
    const RKLLMSamplingParam *s = given->sampling_params;
    if (s != NULL) {
        if (!pointer_good("sampling_params", s, sizeof *s))
            return false;
        infer->has_sampling = true;
        infer->sampling = (struct sampling){
            .top_k = s->top_k,
            .top_p = s->top_p,
            .temperature = s->temperature,
            .repeat_penalty = s->repeat_penalty,
            .frequency_penalty = s->frequency_penalty,
            .presence_penalty = s->presence_penalty,
            .mirostat = s->mirostat,
            .mirostat_tau = s->mirostat_tau,
            .mirostat_eta = s->mirostat_eta,
        };
        return sampling_good(&infer->sampling);
    }
#endif
    return true;
}
