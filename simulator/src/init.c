/* rkllm_init: the board, the caller's struct, the model file, in the vendor's order and with its sentences. */
#include "log.h"
#include "pace.h"
#include "session.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRIVER_WANTED "0.9.7" /* the library warns below it (rkllm-runtime 4) */
#define DOMAINS 16 /* the rknpu 0.9.8 driver's (npu-platform 3.5) */

static const char *const PLATFORMS[] = {"RK3588", "RK3576", "RK3562", "RV1126B"}; /* rkllm.platform's numbers */

static bool board_good(const struct board *board)
{
    if (board->driver[0] == 0) {
        log_npu('E', "failed to open rknpu module, need to insmod rknpu dirver!");
        log_npu('E', "failed to open rknn device!");
        log_npu('E', "Device is not available");
        log_plain("Get device properties failed");
        return false;
    }
    bool since = true;
    if (strcmp(board->soc, "RK3562") == 0)
        since = RKLLM_GEN >= RKLLM_G3;
    if (strcmp(board->soc, "RV1126B") == 0)
        since = RKLLM_GEN >= RKLLM_G4;
    if (board->cpus == 0 || !since) {
        log_plain("Platform error, must be either RK3588, RK3576, RV1126B or RK3562. Your platform is %s", board->soc);
        return false;
    }
    log_line('I', "rkllm-runtime version: %s, rknpu driver version: %s, platform: %s", SIM_VERSION, board->driver,
             board->soc);
    if (RKLLM_GEN < RKLLM_G3)
        log_plain("%s", "");
    if (version_compare(board->driver, DRIVER_WANTED) < 0)
        log_line('W', "Warning: Your rknpu driver version is too low, please upgrade to " DRIVER_WANTED);
    return true;
}

static bool cpus_good(const struct session *s, int64_t cores)
{
    int32_t cpus = s->load.cpus, most = s->board.cpus;
    uint32_t mask = s->load.cpu_mask;
    if (RKLLM_GEN < RKLLM_G3)
        return true;
    if (cpus < 1 || cpus > most) {
        log_line('E', "Expected The number of enabled CPUs between 1 and %d for %s, but got %d.", most, s->board.soc, cpus);
        return false;
    }
    if (__builtin_popcount(mask) != cpus) {
        log_line('E', "Mismatch between enabled CPUs mask and expected count. Please check the configuration.");
        return false;
    }
    if (mask >> most != 0) {
        log_line('E', "For %s, only CPUs 0 to %d can be set, but additional CPUs are enabled.", s->board.soc, most - 1);
        return false;
    }
    if (cpus < cores) {
        log_line('E', "The number of enabled CPUs must be greater than or equal to the number of NPU cores.");
        return false;
    }
    char list[64] = "";
    size_t used = 0;
    for (int cpu = 0; cpu < most; cpu++)
        if (mask >> cpu & 1)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", used == 0 ? "" : ", ", cpu);
    log_line('I', "Enabled cpus: [%s]", list);
    log_line('I', "Enabled cpus num: %d", cpus);
    return true;
}

static void npu_information(const struct session *s)
{
    if (RKLLM_GEN < RKLLM_G4 || strcmp(s->board.soc, "RK3576") != 0)
        return;
    log_npu('I', "RKNN LLM Runtime Information, rknn llm lib version: 2.3.3b0 (simulator)");
    log_npu('I', "RKNN Driver Information, version: %s", s->board.driver);
}

/* The NPU core's own failures: 1.1.x reports them and then says that all is well (rknn-llm issues 119, 129, 156). */
static bool npu_failed(struct session *s)
{
    log_npu('E', "load model file error!");
    if (RKLLM_GEN < RKLLM_G3) {
        log_plain("rknn_init fail! ret=-1");
        s->doomed = true;
        return false;
    }
    return true;
}

static bool toolkit_good(struct session *s)
{
    const char *toolkit = model_toolkit(s->model);
    if (strcmp(toolkit, "unknown") == 0)
        return true;
    if (version_compare(toolkit, SIM_VERSION) > 0) {
        log_line('E', "The rkllm-runtime version is lower than the rkllm-toolkit version. Please update rkllm-runtime to %s"
                      " or higher.", toolkit);
        return false;
    }
    if (version_compare(toolkit, "1.1.0") >= 0)
        return true;
    if (RKLLM_GEN >= RKLLM_G3)
        log_line('W', "the model version is too old, please use the latest toolkit to reconvert the model");
    log_npu('E', "invalid rknn llm model magic");
    return !npu_failed(s);
}

static bool memory_good(struct session *s)
{
    const char *limit = getenv("RKLLM_SIM_NPU_BYTES");
    int64_t wanted = s->behaviour.npu_bytes;
    int reason = 0;
    if (limit != NULL && wanted > strtoll(limit, NULL, 10))
        reason = ENOMEM;
    if (s->load.domain >= DOMAINS)
        reason = EFAULT;
    for (size_t i = 0; i < s->behaviour.n_full_domains; i++)
        if (s->behaviour.full_domains[i] == s->load.domain)
            reason = ENOMEM;
    if (reason == 0)
        return true;
    log_npu('E', "failed to allocate handle, ret: -1, errno: %d, errstr: %s", reason, strerror(reason));
    log_npu('E', "failed to malloc npu memory, size: %lld, flags: 0x2", (long long)wanted);
    return !npu_failed(s);
}

static void log_details(const struct session *s)
{
    if (s->log_level < 2)
        return;
    const struct load *load = &s->load;
    const struct sampling *sampling = &load->sampling;
    const struct vocabulary *v = &s->vocabulary;
    log_line('I', "max_context_len: %d, max_new_tokens: %d, n_keep: %d, n_batch: %d, base_domain_id: %d", load->context,
             load->max_new, load->n_keep, load->batch, load->domain);
    log_line('I', "top_k: %d, top_p: %.2f, temperature: %.2f, repeat_penalty: %.2f", sampling->top_k, sampling->top_p,
             sampling->temperature, sampling->repeat_penalty);
    log_line('I', "vocab_size: %zu", v->count);
    if (v->bos >= 0 && (size_t)v->bos < v->count)
        log_line('I', "BOS token: %d '%s'", v->bos, v->pieces[v->bos].text);
    for (size_t i = 0; i < v->n_eos; i++) {
        if (v->eos[i] < 0)
            continue;
        const char *text = (size_t)v->eos[i] < v->count ? v->pieces[v->eos[i]].text : "";
        if (RKLLM_GEN >= RKLLM_G5)
            log_line('I', "EOS token[%zu]: %d '%s'", i, v->eos[i], text);
        else
            log_line('I', "EOS token: %d '%s'", v->eos[i], text);
    }
}

/* Line ends as \n, the way the vendor's log shows a template on one line. */
static void log_escaped(const char *name, const char *text)
{
    struct bytes line = {0};
    for (; *text != 0; text++)
        bytes_add(&line, *text == '\n' ? "\\n" : text, *text == '\n' ? 2 : 1);
    log_line('I', "%s: %s", name, bytes_text(&line));
    bytes_free(&line);
}

static void log_template(const struct chat *chat)
{
    if (RKLLM_GEN < RKLLM_G3 || RKLLM_GEN >= RKLLM_G4) /* seen on 1.2.0 and 1.2.1b1 */
        return;
    log_escaped("system_prompt", chat->system);
    log_escaped("prompt_prefix", chat->prefix);
    log_escaped("prompt_postfix", chat->postfix);
}

static bool facts_good(struct session *s)
{
    const struct model *m = s->model;
    int64_t limit = model_int(m, "rkllm.max_context", 4096); /* the converter's default (rkllm-runtime 2.2) */
    int64_t cores = model_int(m, "rkllm.core_num", 1);
    int64_t number = model_int(m, "rkllm.platform", 0);
    const char *platform = number >= 0 && number < 4 ? PLATFORMS[number] : "unknown";

    if (RKLLM_GEN >= RKLLM_G4)
        log_line('I', "rkllm-toolkit version: %s, max_context_limit: %lld, npu_core_num: %lld, target_platform: %s, "
                      "model_dtype: %s", model_toolkit(m), (long long)limit, (long long)cores, platform,
                 s->behaviour.dtype);
    else if (RKLLM_GEN >= RKLLM_G3)
        log_line('I', "rkllm-toolkit version: %s, max_context_limit: %lld, npu_core_num: %lld, target_platform: %s",
                 model_toolkit(m), (long long)limit, (long long)cores, platform);
    if (!toolkit_good(s))
        return false;
    if (strcmp(platform, s->board.soc) != 0) {
        log_line('E', "the model's target_platform does not match the real platform");
        return false;
    }
    if (s->load.context > limit) {
        log_line('E', "max_context[%d] must be less than the model's max_context_limit[%lld]", s->load.context,
                 (long long)limit);
        return false;
    }
    npu_information(s);
    return cpus_good(s, cores);
}

static void read_model(struct session *s)
{
    const struct model *m = s->model;
    s->has_tokenizer = model_int(m, "rkllm.has_tokenizer", 1);
    s->has_embedding = model_int(m, "rkllm.has_embedding", 1);
    s->has_vision = model_has(m, "rkllm.vision.spatial_patch_size");
    s->width = (int32_t)model_int(m, ".embedding_length", 64);
    s->layers = (int32_t)model_int(m, ".block_count", 1);
    s->kv_heads = (int32_t)model_int(m, ".attention.head_count_kv", 1);
    s->head_dim = (int32_t)model_int(m, ".attention.key_length", 64);
    s->behaviour = behaviour_read(m);
    s->vocabulary = vocabulary_read(m, s->behaviour.reads_unsigned_ends);
    s->chat = chat_read(m);
    s->chat.thinks = s->behaviour.thinking.len > 0;
    if (s->behaviour.npu_bytes == 0)
        s->behaviour.npu_bytes = (int64_t)model_size(m);
}

static bool open_steps(const RKLLMParam *param, const struct callbacks *callbacks, struct session *s)
{
    s->board = board_read();
    if (!board_good(&s->board) || !abi_load(param, &s->load))
        return false;
    s->callbacks = *callbacks;
    for (int i = 0; i < 3; i++)
        s->image_tags[i] = copied(s->load.image_tags[i]);
    s->lanes = need(calloc((size_t)s->load.batch, sizeof *s->lanes));

    if (RKLLM_GEN >= RKLLM_G3)
        log_line('I', "loading rkllm model from %s", s->load.model_path);
    s->model = model_open(s->load.model_path, SIM_VERSION);
    if (s->model == NULL)
        return false;
    s->load.model_path = model_path(s->model);
    read_model(s);
    if (!facts_good(s)) {
        log_line('E', "rkllm_init failed");
        return false;
    }
    pace_sleep(s->behaviour.load_seconds);
    bool struck = faults_strike(s->behaviour.faults, s->behaviour.n_faults, AT_INIT, 0);
    if (struck || (!s->doomed && !memory_good(s))) {
        log_line('E', "rkllm_init failed");
        return false;
    }
    if (s->behaviour.malloc_bytes > 0) {
        s->ballast = need(malloc((size_t)s->behaviour.malloc_bytes));
        memset(s->ballast, 0x5A, (size_t)s->behaviour.malloc_bytes);
    }
    log_template(&s->chat);
    log_details(s);
    return true;
}

int session_open(const RKLLMParam *param, const struct callbacks *callbacks, struct session **opened)
{
    double started = pace_now();
    struct session *s = need(calloc(1, sizeof *s));
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, NULL);
    s->log_level = log_level();
    s->npu = -1;
    bool good = open_steps(param, callbacks, s);
    const char *lie = s->behaviour.false_success;
    if (good && lie != NULL && strcmp(lie, "abort") == 0)
        s->doomed = true;
    bool null = good && lie != NULL && strcmp(lie, "null") == 0;
    if (!good || null) {
        bool crashes = !good && strcmp(SIM_VERSION, "1.3.0") == 0 && session_any();
        session_free(s);
        if (crashes) {
            log_line('W', "SIMULATOR: in 1.3.0 a failing init crashes while another handle lives (rknn-llm issue 522)");
            signal(SIGSEGV, SIG_DFL);
            raise(SIGSEGV);
        }
        *opened = NULL;
        return good ? 0 : -1;
    }
    s->init_ms = (pace_now() - started) * 1000;
    session_register(s);
    *opened = s;
    return 0;
}
