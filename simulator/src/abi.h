/*
 * The only place that knows the generation's structs: they are read into values of our own, and a
 * value that no sane caller passes is refused with a sentence. That is how a caller with another
 * generation's layout shows up, instead of as undefined behaviour.
 */
#ifndef SIM_ABI_H
#define SIM_ABI_H

#include "rkllm.h"

struct sampling {
    int32_t top_k;
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
};

struct load {
    const char *model_path;
    int32_t context;
    int32_t max_new;
    int32_t n_keep;
    struct sampling sampling;
    bool skip_special;
    bool ignore_eos;
    int32_t domain;
    int32_t cpus; /* 0 in 1.1.x, which has no such field */
    uint32_t cpu_mask;
    int32_t batch;
    bool cross_attention;
    const char *image_tags[3]; /* start, end, content; per input from 1.3.0 on */
};

struct callbacks {
    LLMResultCallback result;
    void *userdata;
#if RKLLM_GEN >= RKLLM_G5
    LLMTokenizerCallback tokenizer;
    void *tokenizer_userdata;
    LLMGetEmbedCallback embed;
    void *embed_userdata;
#endif
};

enum { IMAGE, VIDEO, AUDIO, MEDIA_KINDS };

struct media {
    const float *embed; /* NULL: none of this kind */
    size_t tokens;      /* of one item */
    size_t items;
    size_t frames; /* of one item, 1 but for videos */
    const char *start;
    const char *end;
    const char *content;
    size_t width;
    size_t height;
};

struct input {
    RKLLMInputType type;
    bool tool; /* role "tool" */
    bool no_thinking;
    const char *text;
    const int32_t *ids;
    const float *embed;
    size_t count; /* of ids, or rows of embed */
    struct media media[MEDIA_KINDS];
};

struct infer {
    RKLLMInferMode mode;
    const char *lora;
    bool save_cache;
    const char *cache_path;
    bool has_sampling;
    struct sampling sampling;
    bool keep_history;
    int32_t max_new; /* 0: as at load */
};

RKLLMParam abi_defaults(void);
bool abi_load(const RKLLMParam *param, struct load *load);
#if RKLLM_GEN >= RKLLM_G5
bool abi_callbacks(const RKLLMCallback *given, struct callbacks *callbacks);
#else
bool abi_callbacks(LLMResultCallback given, struct callbacks *callbacks);
#endif
bool abi_input(const RKLLMInput *given, struct input *input);
bool abi_infer(const RKLLMInferParam *given, struct infer *infer);
bool abi_readable(const void *at, size_t len); /* whether memory can be read, without touching it */

#endif
