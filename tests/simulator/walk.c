/*
 * Every exported function of one generation, its errors included, against the sanitized build: a read of
 * freed or foreign memory, undefined behaviour or a leak ends this program with the sanitizer's report.
 *
 * walk FOLDER, where FOLDER holds chat.rkllm, eyes.rkllm, bare.rkllm, lora.rkllm and torn.rkllm.
 */
#include "rkllm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { WIDTH = 64, ROWS = 3 };

static const char *folder;
static char path[4096];
static const char *in_folder(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ── what the callback saw ── */

static struct {
    char text[4096];
    int calls[8];
    double sum; /* of every number in the result: reading them is the point */
    int answer;
    int answer_at;
    int batch;
    int prefilled;
    LLMHandle stop;
} seen;

#if RKLLM_GEN >= RKLLM_G4
#define ANSWER(value) return value
static int on_result(RKLLMResult *results, void *userdata, LLMCallState state)
#else
#define ANSWER(value) (void)(value)
static void on_result(RKLLMResult *results, void *userdata, LLMCallState state)
#endif
{
    CHECK(userdata == &seen);
    CHECK((unsigned)state < 8);
    int call = 0;
    for (int i = 0; i < 8; i++)
        call += seen.calls[i];
    seen.calls[state]++;
    for (int i = 0; i < seen.batch; i++) {
        RKLLMResult *result = &results[i];
        if (result->text != NULL)
            strncat(seen.text, result->text, sizeof seen.text - strlen(seen.text) - 1);
        seen.sum += result->token_id;
        const RKLLMResultLastHiddenLayer *hidden = &result->last_hidden_layer;
        for (int k = 0; k < hidden->num_tokens * hidden->embd_size; k++)
            seen.sum += hidden->hidden_states[k];
#if RKLLM_GEN >= RKLLM_G3
        for (int k = 0; k < result->logits.num_tokens * result->logits.vocab_size; k++)
            seen.sum += result->logits.logits[k];
#endif
#if RKLLM_GEN >= RKLLM_G4
        if (state == RKLLM_RUN_FINISH && i == 0)
            seen.prefilled = result->perf.prefill_tokens;
#endif
    }
    if (seen.stop != NULL)
        CHECK(rkllm_abort(seen.stop) == 0);
    ANSWER(call == seen.answer_at ? seen.answer : 0);
}

static void fresh(void)
{
    int batch = seen.batch;
    memset(&seen, 0, sizeof seen);
    seen.batch = batch == 0 ? 1 : batch;
    seen.answer_at = -1;
}

/* ── the caller's structs ── */

static RKLLMParam param_for(const char *model)
{
    RKLLMParam param = rkllm_createDefaultParam();
    param.model_path = in_folder(model);
    param.max_context_len = 1024;
#if RKLLM_GEN >= RKLLM_G3
    param.extend_param.enabled_cpus_num = 4;
    param.extend_param.enabled_cpus_mask = 0xF0;
#endif
    return param;
}

#if RKLLM_GEN >= RKLLM_G5
static int tokenize(void *userdata, const char *text, int32_t len, int32_t *tokens, int32_t most)
{
    CHECK(userdata == folder);
    for (int32_t i = 0; i < len && i < most; i++)
        tokens[i] = (unsigned char)text[i];
    return len;
}

static int embed(void *userdata, int32_t *tokens, uint64_t count, void *rows, uint64_t len)
{
    CHECK(userdata == folder);
    CHECK(len == count * WIDTH * sizeof(float));
    CHECK(tokens[count - 1] >= 0);
    memset(rows, 0, len);
    return 0;
}
#endif

static int init(LLMHandle *handle, RKLLMParam *param)
{
    fresh();
#if RKLLM_GEN >= RKLLM_G5
    RKLLMCallback callback = {on_result, &seen, tokenize, (void *)folder, embed, (void *)folder};
    return rkllm_init(handle, param, &callback);
#else
    return rkllm_init(handle, param, on_result);
#endif
}

static LLMHandle open_model(RKLLMParam param)
{
    LLMHandle handle = NULL;
    CHECK(init(&handle, &param) == 0 && handle != NULL);
    return handle;
}

static RKLLMInput input_of(RKLLMInputType type)
{
    RKLLMInput input;
    memset(&input, 0, sizeof input);
    input.input_type = type;
#if RKLLM_GEN >= RKLLM_G4
    input.role = "user";
#endif
    return input;
}

static int ask(LLMHandle handle, const char *text, RKLLMInferParam *infer)
{
    RKLLMInput input = input_of(RKLLM_INPUT_PROMPT);
    char *exact = strdup(text); /* of its own size, so that a read behind it is seen */
    input.prompt_input = exact;
    int status = rkllm_run(handle, &input, infer, &seen);
    free(exact);
    return status;
}

/* ── the walk ── */

static void refused_loads(void)
{
    LLMHandle handle = (LLMHandle)&seen;
    const char *const bad[] = {"torn.rkllm", "missing.rkllm", "."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        RKLLMParam param = param_for(bad[i]);
        CHECK(init(&handle, &param) != 0);
    }
    RKLLMParam param = param_for("chat.rkllm");
    param.max_context_len = 1 << 20;
    CHECK(init(&handle, &param) == -1);
    param = param_for("chat.rkllm");
    param.extend_param.base_domain_id = -1;
    CHECK(init(&handle, &param) == -1);
    param = param_for("chat.rkllm");
    param.model_path = NULL;
    CHECK(init(&handle, &param) == -1);
    CHECK(init(&handle, NULL) == -1);
    CHECK(rkllm_init(&handle, &param, NULL) == -1);
#if RKLLM_GEN >= RKLLM_G3
    param = param_for("chat.rkllm");
    param.n_keep = 4096;
    CHECK(init(&handle, &param) == -1);
    param = param_for("chat.rkllm");
    param.extend_param.enabled_cpus_mask = 0x10;
    CHECK(init(&handle, &param) == -1);
#endif
    CHECK(handle == (LLMHandle)&seen);
}

static void null_handles(void)
{
    RKLLMInput input = input_of(RKLLM_INPUT_PROMPT);
    CHECK(rkllm_destroy(NULL) == -1);
    CHECK(rkllm_run(NULL, &input, NULL, NULL) == -1);
    CHECK(rkllm_run_async(NULL, &input, NULL, NULL) == -1);
    CHECK(rkllm_abort(NULL) == -1);
    CHECK(rkllm_is_running(NULL) == -1);
    CHECK(rkllm_load_lora(NULL, NULL) == -1);
    CHECK(rkllm_load_prompt_cache(NULL, NULL) == -1);
    CHECK(rkllm_release_prompt_cache(NULL) == -1);
#if RKLLM_GEN >= RKLLM_G3
    CHECK(rkllm_set_chat_template(NULL, "", "", "") == -1);
#endif
#if RKLLM_GEN >= RKLLM_G4
    CHECK(rkllm_clear_kv_cache(NULL, 0, NULL, NULL) == -1);
    CHECK(rkllm_get_kv_cache_size(NULL, NULL) == -1);
    CHECK(rkllm_set_function_tools(NULL, "", "[]", "") == -1);
    CHECK(rkllm_set_cross_attn_params(NULL, NULL) == -1);
#elif RKLLM_GEN >= RKLLM_G3
    CHECK(rkllm_clear_kv_cache(NULL, 0) == -1);
#endif
    CHECK(rkllm_destroy((LLMHandle)&input) == -1);
}

static void answers(void)
{
    LLMHandle handle = open_model(param_for("chat.rkllm"));
    RKLLMInferParam infer;
    memset(&infer, 0, sizeof infer);

    CHECK(ask(handle, "Hello \xf0\x9f\x99\x82", &infer) == 0);
    CHECK(strcmp(seen.text, "I heard: Hello \xf0\x9f\x99\x82") == 0);
    CHECK(seen.calls[RKLLM_RUN_FINISH] == 1 && seen.calls[RKLLM_RUN_WAITING] == 3);
    fresh();
    CHECK(ask(handle, "", NULL) == 0);
    fresh();
    seen.stop = handle;
    CHECK(ask(handle, "Hello", &infer) == 0 && seen.calls[RKLLM_RUN_NORMAL] == 1);

    fresh();
    RKLLMInput input = input_of(RKLLM_INPUT_TOKEN);
    int32_t *ids = malloc(ROWS * sizeof *ids);
    for (int i = 0; i < ROWS; i++)
        ids[i] = 300 + i;
    input.token_input = (RKLLMTokenInput){ids, ROWS};
    CHECK(rkllm_run(handle, &input, &infer, &seen) == 0);
    ids[1] = -5;
    CHECK(rkllm_run(handle, &input, &infer, &seen) == -1);
    free(ids);

    float *rows = calloc(ROWS * WIDTH, sizeof *rows);
    input = input_of(RKLLM_INPUT_EMBED);
    input.embed_input = (RKLLMEmbedInput){rows, ROWS};
    CHECK(rkllm_run(handle, &input, &infer, &seen) == 0);
    input.embed_input.n_tokens = 0;
    CHECK(rkllm_run(handle, &input, &infer, &seen) == -1);
    free(rows);

    CHECK(rkllm_run(handle, NULL, &infer, &seen) == -1);
    input = input_of((RKLLMInputType)9);
    CHECK(rkllm_run(handle, &input, &infer, &seen) == -1);

    char *text = malloc(6000);
    memset(text, 'z', 5999);
    text[5999] = 0;
    fresh();
    CHECK(ask(handle, text, &infer) == -1 && seen.calls[RKLLM_RUN_ERROR] == 0);
    free(text);
    CHECK(rkllm_destroy(handle) == 0);
    CHECK(rkllm_destroy(handle) == -1);
}

static void vectors(void)
{
    LLMHandle handle = open_model(param_for("chat.rkllm"));
    RKLLMInferParam infer;
    memset(&infer, 0, sizeof infer);
    infer.mode = RKLLM_INFER_GET_LAST_HIDDEN_LAYER;
    CHECK(ask(handle, "Hello", &infer) == 0 && seen.sum != 0);
    seen.answer = RKLLM_GEN >= RKLLM_G5 ? 2 : 0;
    seen.answer_at = 1;
    CHECK(ask(handle, "Hello", &infer) == 0);
#if RKLLM_GEN >= RKLLM_G3
    infer.mode = RKLLM_INFER_GET_LOGITS;
    CHECK(ask(handle, "Hello", &infer) == 0);
#endif
    infer.mode = (RKLLMInferMode)7;
    CHECK(ask(handle, "Hello", &infer) == -1);
    CHECK(rkllm_destroy(handle) == 0);
}

static void files(void)
{
    LLMHandle handle = open_model(param_for("chat.rkllm"));
    char cache[4200], adapter_path[4200];
    snprintf(cache, sizeof cache, "%s/saved.bin", folder);
    snprintf(adapter_path, sizeof adapter_path, "%s/lora.rkllm", folder);
    RKLLMPromptCacheParam save = {1, cache};
    RKLLMLoraParam lora = {"pirate"};
    RKLLMInferParam infer;
    memset(&infer, 0, sizeof infer);

    infer.prompt_cache_params = &save;
    CHECK(ask(handle, "Hello", &infer) == 0);
    infer.prompt_cache_params = NULL;
    CHECK(rkllm_load_prompt_cache(handle, cache) == 0);
    CHECK(rkllm_load_prompt_cache(handle, cache) == 0);
    CHECK(ask(handle, "Hello", &infer) == 0);
    CHECK(rkllm_release_prompt_cache(handle) == 0);
    CHECK(rkllm_release_prompt_cache(handle) == 0);
    CHECK(rkllm_load_prompt_cache(handle, "/nowhere") == -1);
    CHECK(rkllm_load_prompt_cache(handle, adapter_path) == -1);
    CHECK(rkllm_load_prompt_cache(handle, NULL) == -1);

    RKLLMLoraAdapter adapter = {adapter_path, "pirate", 1.0f};
    infer.lora_params = &lora;
    CHECK(ask(handle, "Hello", &infer) == -1);
    CHECK(rkllm_load_lora(handle, &adapter) == 0);
    CHECK(rkllm_load_lora(handle, &adapter) == -1);
    fresh();
    CHECK(ask(handle, "Hello", &infer) == 0 && strcmp(seen.text, "Arr, Hello") == 0);
    adapter.lora_adapter_path = "/nowhere";
    CHECK(rkllm_load_lora(handle, &adapter) == -1);
    adapter.lora_adapter_path = NULL;
    CHECK(rkllm_load_lora(handle, &adapter) == -1);
    CHECK(rkllm_destroy(handle) == 0);
}

static void eyes(void)
{
    RKLLMParam param = param_for("eyes.rkllm");
#if RKLLM_GEN < RKLLM_G5
    char *start = strdup("<|vision_start|>");
    param.img_start = start;
    param.img_end = "<|vision_end|>";
#endif
    LLMHandle handle = open_model(param);
#if RKLLM_GEN < RKLLM_G5
    free(start); /* what init was given need not outlive init */
#endif
    float *rows = calloc(ROWS * WIDTH, sizeof *rows);
    RKLLMInput input = input_of(RKLLM_INPUT_MULTIMODAL);
    char prompt[] = "<image>what?";
#if RKLLM_GEN < RKLLM_G5
    input.multimodal_input = (RKLLMMultiModalInput){.prompt = prompt, .image_embed = rows, .n_image_tokens = ROWS};
#if RKLLM_GEN >= RKLLM_G3B
    input.multimodal_input.n_image = 1;
#endif
#else
    input.multimodal_input.prompt = prompt;
    input.multimodal_input.image.image_embed = rows;
    input.multimodal_input.image.n_image_tokens = ROWS;
    input.multimodal_input.image.n_image = 1;
    input.multimodal_input.image.image_start = "<|vision_start|>";
#endif
    CHECK(rkllm_run(handle, &input, NULL, &seen) == 0 && strcmp(seen.text, "1 image") == 0);
    prompt[0] = ' ';
    CHECK(rkllm_run(handle, &input, NULL, &seen) == -1);
    free(rows);
    CHECK(rkllm_destroy(handle) == 0);
    handle = open_model(param_for("chat.rkllm"));
    CHECK(rkllm_run(handle, &input, NULL, &seen) == -1);
    CHECK(rkllm_destroy(handle) == 0);
}

static void *wait_and_abort(void *handle)
{
    while (rkllm_is_running(handle) == 0)
        usleep(100);
    usleep(2000);
    CHECK(rkllm_abort(handle) == 0);
    return NULL;
}

static void threads(void)
{
    LLMHandle handle = open_model(param_for("endless.rkllm"));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wait_and_abort, handle) == 0);
    CHECK(ask(handle, "Hello", NULL) == 0);
    pthread_join(thread, NULL);

    RKLLMInput input = input_of(RKLLM_INPUT_PROMPT);
    input.prompt_input = "Hello";
    fresh();
    CHECK(rkllm_run_async(handle, &input, NULL, &seen) == 0);
    CHECK(rkllm_run_async(handle, &input, NULL, &seen) == -1);
    CHECK(rkllm_run(handle, &input, NULL, &seen) == -1);
    CHECK(rkllm_is_running(handle) == 1);
    CHECK(rkllm_abort(handle) == 0);
    while (rkllm_is_running(handle))
        usleep(100);
    CHECK(rkllm_run_async(handle, &input, NULL, &seen) == 0);
    CHECK(rkllm_destroy(handle) == 0); /* ends the run */
    CHECK(seen.calls[RKLLM_RUN_FINISH] == 2);
}

static void two_models(void)
{
    LLMHandle one = open_model(param_for("chat.rkllm"));
    LLMHandle two = open_model(param_for("eyes.rkllm"));
    CHECK(one != two);
    CHECK(ask(one, "Hello", NULL) == 0);
    CHECK(ask(two, "Hello", NULL) == 0);
    CHECK(rkllm_destroy(one) == 0);
    CHECK(ask(one, "Hello", NULL) == -1);
    CHECK(ask(two, "Hello", NULL) == 0);
    CHECK(rkllm_destroy(two) == 0);
}

#if RKLLM_GEN >= RKLLM_G3
static void history(void)
{
    LLMHandle handle = open_model(param_for("chat.rkllm"));
    RKLLMInferParam infer;
    memset(&infer, 0, sizeof infer);
    infer.keep_history = 1;
    for (int i = 0; i < 40; i++) /* over the context, so that the history moves */
        CHECK(ask(handle, "one two three four five six seven eight nine ten eleven twelve", &infer) == 0);
    CHECK(rkllm_set_chat_template(handle, "S", "<", NULL) == 0);
    CHECK(ask(handle, "Hello", &infer) == 0);
#if RKLLM_GEN >= RKLLM_G4
    int start = 0, end = 3, size = -1;
    CHECK(rkllm_get_kv_cache_size(handle, &size) == 0 && size > 0);
    CHECK(rkllm_get_kv_cache_size(handle, NULL) == -1);
    CHECK(rkllm_clear_kv_cache(handle, 1, &start, &end) == -1);
    CHECK(rkllm_clear_kv_cache(handle, 1, &start, NULL) == -1);
    CHECK(rkllm_clear_kv_cache(handle, 1, NULL, NULL) == 0);
    CHECK(rkllm_clear_kv_cache(handle, 0, NULL, NULL) == 0);
    CHECK(rkllm_get_kv_cache_size(handle, &size) == 0 && size == 0);

    fresh();
    infer.keep_history = 0;
    seen.answer = 1;
    seen.answer_at = 2;
    CHECK(ask(handle, "Hello", &infer) == 0 && seen.calls[RKLLM_RUN_FINISH] == 0);
    CHECK(rkllm_get_kv_cache_size(handle, &size) == 0 && size > 3);
    CHECK(rkllm_clear_kv_cache(handle, 0, &start, &end) == 0);
    end = 5000;
    CHECK(rkllm_clear_kv_cache(handle, 0, &start, &end) == -1);
    CHECK(ask(handle, "more", &infer) == 0 && seen.calls[RKLLM_RUN_FINISH] == 1);
    fresh();
    CHECK(ask(handle, "Hello", &infer) == 0);
    fresh();
    CHECK(ask(handle, "Hello", &infer) == 0 && seen.prefilled == 1);
#else
    CHECK(rkllm_clear_kv_cache(handle, 1) == 0);
    CHECK(rkllm_clear_kv_cache(handle, 0) == 0);
#endif
    CHECK(rkllm_destroy(handle) == 0);

    RKLLMParam param = param_for("endless.rkllm");
    param.max_context_len = 64;
    param.n_keep = 8;
    param.max_new_tokens = 300;
    handle = open_model(param);
    CHECK(ask(handle, "Hello", NULL) == 0 && seen.calls[RKLLM_RUN_NORMAL] == 300);
    CHECK(rkllm_destroy(handle) == 0);
}
#endif

#if RKLLM_GEN >= RKLLM_G4
static void tools(void)
{
    LLMHandle handle = open_model(param_for("chat.rkllm"));
    const char list[] = "[{\"type\": \"function\", \"function\": {\"name\": \"get_time\"}}]";
    CHECK(rkllm_set_function_tools(handle, "S", list, "tool_response") == 0);
    CHECK(rkllm_set_function_tools(handle, NULL, list, NULL) == 0);
    CHECK(rkllm_set_function_tools(handle, "S", NULL, NULL) == -1);
    CHECK(ask(handle, "get_time", NULL) == 0);
    CHECK(strcmp(seen.text, "<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>") == 0);
    RKLLMInput input = input_of(RKLLM_INPUT_PROMPT);
    input.role = "tool";
    input.prompt_input = "noon";
    fresh();
    CHECK(rkllm_run(handle, &input, NULL, &seen) == 0 && strcmp(seen.text, "The tool said: noon") == 0);
    CHECK(rkllm_destroy(handle) == 0);
}

static void cross_attention(void)
{
    RKLLMParam param = param_for("chat.rkllm");
    param.extend_param.use_cross_attn = 1;
    LLMHandle handle = open_model(param);
    size_t values = 24 * ROWS * 2 * 64;
    RKLLMCrossAttnParam cross = {malloc(values * 4), malloc(values * 4), malloc(ROWS * 4), malloc(ROWS * 4), ROWS};
    memset(cross.encoder_k_cache, 0, values * 4);
    memset(cross.encoder_v_cache, 0, values * 4);
    memset(cross.encoder_mask, 0, ROWS * 4);
    memset(cross.encoder_pos, 0, ROWS * 4);
    CHECK(rkllm_set_cross_attn_params(handle, &cross) == 0);
    CHECK(rkllm_set_cross_attn_params(handle, NULL) == -1);
    free(cross.encoder_k_cache);
    free(cross.encoder_v_cache);
    free(cross.encoder_mask);
    free(cross.encoder_pos);
    CHECK(rkllm_destroy(handle) == 0);
}

static void batches(void)
{
    RKLLMParam param = param_for("chat.rkllm");
    param.extend_param.n_batch = 3;
    LLMHandle handle = open_model(param);
    seen.batch = 3;
    RKLLMInput *inputs = malloc(3 * sizeof *inputs);
    const char *const texts[] = {"a", "two words", "\xe4\xb8\x96"};
    for (int i = 0; i < 3; i++) {
        inputs[i] = input_of(RKLLM_INPUT_PROMPT);
        inputs[i].prompt_input = texts[i];
    }
    RKLLMInferParam infer;
    memset(&infer, 0, sizeof infer);
    CHECK(rkllm_run(handle, inputs, &infer, &seen) == 0 && seen.calls[RKLLM_RUN_FINISH] == 1);
    infer.mode = RKLLM_INFER_GET_LOGITS;
    CHECK(rkllm_run(handle, inputs, &infer, &seen) == -1);
    int *sizes = malloc(3 * sizeof *sizes);
    CHECK(rkllm_get_kv_cache_size(handle, sizes) == 0);
    free(sizes);
    free(inputs);
    CHECK(rkllm_destroy(handle) == 0);
    seen.batch = 1;
}
#endif

#if RKLLM_GEN >= RKLLM_G5
static void bare(void)
{
    LLMHandle handle = open_model(param_for("bare.rkllm"));
    CHECK(ask(handle, "Hello", NULL) == 0 && seen.calls[RKLLM_RUN_FINISH] == 1);
    RKLLMSamplingParam sampling = {1, 0.5f, 0.1f, 1, 0, 0, 0, 5, 0.1f};
    RKLLMInferParam infer;
    memset(&infer, 0, sizeof infer);
    infer.sampling_params = &sampling;
    infer.max_new_tokens = 2;
    fresh();
    CHECK(ask(handle, "Hello", &infer) == 0 && seen.calls[RKLLM_RUN_NORMAL] == 2);
    CHECK(rkllm_destroy(handle) == 0);
}
#endif

int main(int count, char **arguments)
{
    CHECK(count == 2);
    folder = arguments[1];
    seen.batch = 1;
    fresh();
    null_handles();
    refused_loads();
    answers();
    vectors();
    files();
    eyes();
    threads();
    two_models();
#if RKLLM_GEN >= RKLLM_G3
    history();
#endif
#if RKLLM_GEN >= RKLLM_G4
    tools();
    cross_attention();
    batches();
#endif
#if RKLLM_GEN >= RKLLM_G5
    bare();
#endif
    puts("walked");
    return 0;
}
