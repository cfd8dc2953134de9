/*
 * The C interface of librkllmrt, every generation of it, as one clean C11 header of our own.
 *
 * The vendor changed its struct layouts eight times without a version field in any struct. Which
 * layout is meant is chosen at compile time by RKLLM_GEN; src/layouts.c asserts every size and offset.
 */
#ifndef RKLLM_H
#define RKLLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RKLLM_G1 10  /* 1.0.1 - 1.0.2 */
#define RKLLM_G2 20  /* 1.1.0 - 1.1.4 */
#define RKLLM_G3 30  /* 1.2.0 */
#define RKLLM_G3B 35 /* 1.2.1b1 */
#define RKLLM_G4 40  /* 1.2.1 - 1.2.3 */
#define RKLLM_G5 50  /* 1.3.0 */
#define RKLLM_G6 60  /* 1.3.1 */

#ifndef RKLLM_GEN
#error "choose a generation: -DRKLLM_GEN=RKLLM_G5"
#endif

typedef void *LLMHandle;

#if RKLLM_GEN < RKLLM_G2 /* ── 1.0.x ──────────────────────────────────────────────────────────── */

typedef enum { LLM_RUN_NORMAL, LLM_RUN_FINISH, LLM_RUN_ERROR } LLMCallState;

typedef struct {
    const char *model_path;
    int32_t num_npu_core;
    int32_t max_context_len;
    int32_t max_new_tokens;
    int32_t top_k;
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
    bool logprobs;
    int32_t top_logprobs;
    bool use_gpu;
} RKLLMParam;

typedef struct {
    float logprob;
    int id;
} Token;

typedef struct {
    const char *text;
    Token *tokens;
    int num;
} RKLLMResult;

typedef void (*LLMResultCallback)(RKLLMResult *result, void *userdata, LLMCallState state);

RKLLMParam rkllm_createDefaultParam(void);
int rkllm_init(LLMHandle *handle, RKLLMParam param, LLMResultCallback callback);
int rkllm_destroy(LLMHandle handle);
int rkllm_run(LLMHandle handle, const char *prompt, void *userdata);
int rkllm_abort(LLMHandle handle);

#else /* ── 1.1.0 and newer ────────────────────────────────────────────────────────────────────── */

typedef enum {
    RKLLM_RUN_NORMAL,
    RKLLM_RUN_WAITING,
    RKLLM_RUN_FINISH,
    RKLLM_RUN_ERROR,
#if RKLLM_GEN < RKLLM_G3
    RKLLM_RUN_GET_LAST_HIDDEN_LAYER,
#endif
} LLMCallState;

typedef enum {
    RKLLM_INPUT_PROMPT,
    RKLLM_INPUT_TOKEN,
    RKLLM_INPUT_EMBED,
    RKLLM_INPUT_MULTIMODAL,
} RKLLMInputType;

typedef enum {
    RKLLM_INFER_GENERATE,
    RKLLM_INFER_GET_LAST_HIDDEN_LAYER,
#if RKLLM_GEN >= RKLLM_G3
    RKLLM_INFER_GET_LOGITS,
#endif
} RKLLMInferMode;

typedef struct {
    int32_t base_domain_id;
#if RKLLM_GEN < RKLLM_G3
    uint8_t reserved[112];
#else
    int8_t embed_flash;
    int8_t enabled_cpus_num;
    uint32_t enabled_cpus_mask;
#if RKLLM_GEN < RKLLM_G4
    uint8_t reserved[106];
#else
    uint8_t n_batch;
    int8_t use_cross_attn;
    uint8_t reserved[104];
#endif
#endif
} RKLLMExtendParam;

typedef struct {
    const char *model_path;
    int32_t max_context_len;
    int32_t max_new_tokens;
    int32_t top_k;
#if RKLLM_GEN >= RKLLM_G3
    int32_t n_keep;
#endif
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
    bool skip_special_token;
#if RKLLM_GEN >= RKLLM_G5
    bool ignore_eos_token;
#endif
    bool is_async;
#if RKLLM_GEN < RKLLM_G5
    const char *img_start;
    const char *img_end;
    const char *img_content;
#endif
    RKLLMExtendParam extend_param;
} RKLLMParam;

typedef struct {
    const char *lora_adapter_path;
    const char *lora_adapter_name;
    float scale;
} RKLLMLoraAdapter;

typedef struct {
    const char *lora_adapter_name;
} RKLLMLoraParam;

typedef struct {
    int save_prompt_cache;
    const char *prompt_cache_path;
} RKLLMPromptCacheParam;

typedef struct {
    float *embed;
    size_t n_tokens;
} RKLLMEmbedInput;

typedef struct {
    int32_t *input_ids;
    size_t n_tokens;
} RKLLMTokenInput;

#if RKLLM_GEN < RKLLM_G5
typedef struct {
    char *prompt;
    float *image_embed;
    size_t n_image_tokens;
#if RKLLM_GEN >= RKLLM_G3B
    size_t n_image;
    size_t image_width;
    size_t image_height;
#endif
} RKLLMMultiModalInput;
#else
typedef struct {
    char *prompt;
    struct {
        float *image_embed;
        size_t n_image_tokens;
        size_t n_image;
        const char *image_start;
        const char *image_end;
        const char *image_content;
        size_t image_width;
        size_t image_height;
    } image;
    struct {
        float *video_embed;
        size_t n_frame_tokens;
        size_t n_frame_per_video;
        size_t n_video;
        const char *video_start;
        const char *video_end;
        const char *video_content;
        size_t frame_width;
        size_t frame_height;
    } video;
#if RKLLM_GEN >= RKLLM_G6
    struct {
        float *audio_embed;
        size_t n_audio_tokens;
        size_t n_audio;
        const char *audio_start;
        const char *audio_end;
        const char *audio_content;
    } audio;
#endif
} RKLLMMultiModalInput;
#endif

typedef struct {
#if RKLLM_GEN >= RKLLM_G4
    const char *role;
    bool enable_thinking;
#endif
    RKLLMInputType input_type;
    union {
        const char *prompt_input;
        RKLLMEmbedInput embed_input;
        RKLLMTokenInput token_input;
        RKLLMMultiModalInput multimodal_input;
    };
} RKLLMInput;

#if RKLLM_GEN >= RKLLM_G5
typedef struct {
    int32_t top_k;
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
} RKLLMSamplingParam;
#endif

typedef struct {
    RKLLMInferMode mode;
    RKLLMLoraParam *lora_params;
    RKLLMPromptCacheParam *prompt_cache_params;
#if RKLLM_GEN >= RKLLM_G5
    RKLLMSamplingParam *sampling_params;
#endif
#if RKLLM_GEN >= RKLLM_G3
    int keep_history;
#endif
#if RKLLM_GEN >= RKLLM_G5
    int32_t max_new_tokens;
#endif
} RKLLMInferParam;

typedef struct {
    const float *hidden_states;
    int embd_size;
    int num_tokens;
} RKLLMResultLastHiddenLayer;

#if RKLLM_GEN >= RKLLM_G3
typedef struct {
    const float *logits;
    int vocab_size;
    int num_tokens;
} RKLLMResultLogits;
#endif

#if RKLLM_GEN >= RKLLM_G4
typedef struct {
    float *encoder_k_cache;
    float *encoder_v_cache;
    float *encoder_mask;
    int32_t *encoder_pos;
    int num_tokens;
} RKLLMCrossAttnParam;

typedef struct {
    float prefill_time_ms;
    int prefill_tokens;
    float generate_time_ms;
    int generate_tokens;
    float memory_usage_mb;
} RKLLMPerfStat;
#endif

typedef struct {
    const char *text;
    int32_t token_id;
    RKLLMResultLastHiddenLayer last_hidden_layer;
#if RKLLM_GEN >= RKLLM_G3
    RKLLMResultLogits logits;
#endif
#if RKLLM_GEN >= RKLLM_G4
    RKLLMPerfStat perf;
#endif
} RKLLMResult;

#if RKLLM_GEN >= RKLLM_G4 /* the answer is 0 go on, 1 pause, 2 (1.3.0+) release the output buffer */
typedef int (*LLMResultCallback)(RKLLMResult *result, void *userdata, LLMCallState state);
#else
typedef void (*LLMResultCallback)(RKLLMResult *result, void *userdata, LLMCallState state);
#endif

#if RKLLM_GEN >= RKLLM_G5
typedef int (*LLMTokenizerCallback)(void *userdata, const char *text, int32_t text_len, int32_t *tokens,
                                    int32_t n_tokens_max);
typedef int (*LLMGetEmbedCallback)(void *userdata, int32_t *tokens, uint64_t num_tokens, void *embed, uint64_t len);

typedef struct {
    LLMResultCallback result_callback;
    void *result_userdata;
    LLMTokenizerCallback tokenizer_callback;
    void *tokenizer_userdata;
    LLMGetEmbedCallback embed_callback;
    void *embed_userdata;
} RKLLMCallback;
#endif

RKLLMParam rkllm_createDefaultParam(void);
#if RKLLM_GEN >= RKLLM_G5
int rkllm_init(LLMHandle *handle, RKLLMParam *param, RKLLMCallback *callback);
#else
int rkllm_init(LLMHandle *handle, RKLLMParam *param, LLMResultCallback callback);
#endif
int rkllm_destroy(LLMHandle handle);
int rkllm_run(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata);
int rkllm_run_async(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata);
int rkllm_abort(LLMHandle handle);
int rkllm_is_running(LLMHandle handle);
int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *lora_adapter);
int rkllm_load_prompt_cache(LLMHandle handle, const char *prompt_cache_path);
int rkllm_release_prompt_cache(LLMHandle handle);
#if RKLLM_GEN >= RKLLM_G3
int rkllm_set_chat_template(LLMHandle handle, const char *system_prompt, const char *prompt_prefix,
                            const char *prompt_postfix);
#endif
#if RKLLM_GEN >= RKLLM_G4
int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start_pos, int *end_pos);
int rkllm_get_kv_cache_size(LLMHandle handle, int *cache_sizes);
int rkllm_set_function_tools(LLMHandle handle, const char *system_prompt, const char *tools,
                             const char *tool_response_str);
int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *cross_attn_params);
#elif RKLLM_GEN >= RKLLM_G3
int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt);
#endif

#endif /* 1.1.0 and newer */
#endif
