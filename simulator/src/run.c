/* One run: prompt, prefill, decode loop, finish. */
#include "deliver.h"
#include "log.h"
#include "pace.h"
#include "prompt.h"
#include "reply.h"
#include "sampler.h"
#include "timings.h"
#include "vectors.h"
#include "window.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The vendor's library looks for an abort between chunks of a long prompt; prefills below 100 tokens were not cut (row
 * 13, B), and what its chunk size is nobody says. */
#define PREFILL_CHUNK 128

struct task {
    struct session *s;
    const struct infer *infer;
    const struct adapter *adapter;
    void *userdata;
    struct prompt *prompts;
    struct output *outputs;
    size_t lanes;
    size_t most; /* tokens to generate */
    struct perf perf;
    double started;
    bool aborted;
    bool prefilled;
    bool overlong;
    bool answers;   /* a new answer, not the rest of a paused one */
    bool continues; /* the positions of a prompt cache file, which need no prompt */
};

enum end { END_FINISHED, END_ABORTED, END_PAUSED, END_FAILED };

static bool abort_due(const struct session *s)
{
    int64_t wanted = atomic_load_explicit(&s->abort_at, memory_order_relaxed);
    if (wanted == 0 || s->behaviour.ignore_abort)
        return false;
    return s->behaviour.abort_delay_ms == 0 ||
           pace_now() * 1e9 >= (double)wanted + (double)s->behaviour.abort_delay_ms * 1e6;
}

static int failed(struct task *task)
{
    struct session *s = task->s;
    const char *style = task->overlong ? s->behaviour.overlong : s->behaviour.error_style;
    for (size_t i = 0; s->paused && i < task->lanes; i++)
        s->lanes[i].cache.history = s->lanes[i].before;
    s->paused = false;
    if (strcmp(style, "return") != 0)
        deliver(s, task->userdata, RKLLM_RUN_ERROR, NULL, NULL);
    return strcmp(style, "callback") == 0 ? 0 : -1;
}

/* ── prefill ───────────────────────────────────────────────────────────────────────────────────── */

static bool linear_without_reuse(const struct session *s)
{
    const char *architecture = model_architecture(s->model);
    bool linear = strncmp(architecture, "rwkv", 4) == 0 || strncmp(architecture, "qwen35", 6) == 0;
    return linear && version_compare(SIM_VERSION, "1.3.1") < 0;
}

static bool reuses(const struct session *s, const struct input *input)
{
    bool rows = input->type == RKLLM_INPUT_EMBED || input->type == RKLLM_INPUT_MULTIMODAL;
    return !(rows && version_compare(SIM_VERSION, "1.2.3") < 0) && !linear_without_reuse(s);
}

/* How many of the prompt's positions need not be computed. The last one always is: it gives the first token. What was
 * computed with another adapter is reused all the same, and `maker` tells of it. */
static size_t reusable(struct session *s, struct cache *cache, const struct prompt *prompt, const struct input *input,
                       uint64_t *maker)
{
    if (prompt->count == 0 || !reuses(s, input))
        return 0;
    size_t matched = RKLLM_GEN >= RKLLM_G3 || s->paused ? cache_match(cache, prompt->keys, prompt->count) : 0;
    size_t from_file = cache->history == 0 ? cache_match(&s->loaded, prompt->keys, prompt->count) : 0;
    uint64_t other = from_file > matched ? s->loaded.maker : cache->maker;
    matched = matched > from_file ? matched : from_file;
    if (matched + cache->history > 0 && other != *maker)
        *maker = mix(other ^ mix(*maker));
    return matched < prompt->count ? matched : prompt->count - 1;
}

static bool embed_by_caller(struct session *s, int32_t *ids, size_t count)
{
#if RKLLM_GEN >= RKLLM_G5
    if (s->has_embedding || count == 0)
        return true;
    if (s->callbacks.embed == NULL) {
        log_line('E', "the model has no embedding and embed_callback is NULL");
        return false;
    }
    for (size_t end = 0, start; end < count;) {
        for (start = end; start < count && ids[start] < 0;) /* rows that came as an embedding */
            start++;
        for (end = start; end < count && ids[end] >= 0;)
            end++;
        size_t len = (end - start) * (size_t)s->width * sizeof(float);
        if (len == 0)
            break;
        void *rows = need(malloc(len));
        int status = s->callbacks.embed(s->callbacks.embed_userdata, ids + start, end - start, rows, len);
        free(rows);
        if (status != 0) {
            log_line('E', "embed_callback failed, ret: %d", status);
            return false;
        }
    }
    return true;
#else
    (void)s, (void)ids, (void)count;
    return true;
#endif
}

static bool prefill(struct task *task, const struct input *inputs)
{
    struct session *s = task->s;
    size_t most = 0;
    bool whole = task->infer->mode != RKLLM_INFER_GENERATE; /* rows are asked for every position */
    for (size_t i = 0; i < task->lanes; i++) {
        struct cache *cache = &s->lanes[i].cache;
        struct prompt *prompt = &task->prompts[i];
        if (linear_without_reuse(s) && s->behaviour.warns_of_reuse && cache->count > cache->history)
            log_line('W', "Current model does not support kv cache reuse. clearing all caches.");
        if (!window_make_room(s, cache, prompt->count)) {
            task->overlong = true;
            return false;
        }
        uint64_t maker = adapter_hash(task->adapter);
        size_t matched = whole ? 0 : reusable(s, cache, prompt, &inputs[i], &maker);
        if (s->log_level >= 2)
            log_line('I', "kv cache matches %zu / %zu tokens of prompt", matched, prompt->count);
        size_t fresh = prompt->count - matched;
        if (!embed_by_caller(s, prompt->ids + matched, fresh))
            return false;
        cache_cut(cache, cache->history);
        cache->maker = maker;
        if (cache->history == 0)
            cache->system = prompt->system;
        for (size_t k = 0; k < prompt->count; k++)
            cache_add(cache, prompt->keys[k]);
        s->lanes[i].prompted = cache->count;
        task->perf.prefill_tokens += (int)fresh;
        most = fresh > most ? fresh : most;
    }
    if (faults_strike(s->behaviour.faults, s->behaviour.n_faults, AT_PREFILL, 0))
        return false;

    const struct behaviour *b = &s->behaviour;
    double base = (b->prefill_base_ms + s->residue_ms) / 1000;
    double step = b->prefill_tps > 0 ? 1 / b->prefill_tps : 0;
    size_t chunk = b->abort_in_prefill ? PREFILL_CHUNK : most;
    for (size_t done = 0; done < most && !task->aborted; done += chunk) {
        size_t now = done + chunk < most ? done + chunk : most;
        if (base + step > 0)
            pace_until(task->started + base + (double)now * step);
        task->aborted = abort_due(s);
        task->prefilled = now == most;
        if (!npu_undisturbed(s))
            return false;
    }
    task->prefilled |= most == 0;
    return true;
}

/* ── decode ────────────────────────────────────────────────────────────────────────────────────── */

static bool is_control(const struct session *s, int32_t id)
{
    return id >= 0 && (size_t)id < s->vocabulary.count && s->vocabulary.pieces[id].kind == KIND_CONTROL;
}

static bool is_eos(const struct session *s, int32_t id)
{
    for (size_t i = 0; i < s->vocabulary.n_eos; i++)
        if (id >= 0 && id == s->vocabulary.eos[i])
            return true;
    return false;
}

/* The next token of one element. False when the answer is over. */
static bool next_token(const struct session *s, struct lane *lane)
{
    int32_t end = s->vocabulary.end;
    bool missed = s->load.ignore_eos || (end >= 0 && !is_eos(s, end));
    bool ended = end >= 0 && lane->token == end;
    if (lane->said >= lane->reply.count && (ended || s->behaviour.endless || (missed && end < 0)))
        lane->said = 0; /* past an ignored end the model tells it all again */
    if (lane->said < lane->reply.count) {
        lane->token = lane->reply.ids[lane->said++];
        return true;
    }
    lane->token = end;
    return end >= 0 && (missed || !s->load.skip_special || s->behaviour.end_event);
}

/* One step of one element: its token and the text that it shows. False when the answer is over. */
static bool advance(struct session *s, struct lane *lane, struct output *output)
{
    *output = (struct output){.token = -1};
    lane->done = lane->done || !window_room_for_token(s, &lane->cache) || !next_token(s, lane);
    if (lane->done)
        return false;
    lane->done = is_eos(s, lane->token) && !s->load.ignore_eos;
    if (!lane->done) /* an end is sampled, but nothing follows that it would be computed for */
        cache_add(&lane->cache, (uint32_t)lane->token);
    output->token = lane->token;
    lane->waiting = false;
    if (!s->has_tokenizer || (s->load.skip_special && is_control(s, lane->token))) {
        output->text = s->has_tokenizer ? "" : NULL;
    } else {
        const struct piece *piece = &s->vocabulary.pieces[lane->token];
        if (lane->held.len == 0 && (s->behaviour.split_multibyte || utf8_waiting(piece->text, piece->len) == 0)) {
            output->text = piece->text;
            output->len = piece->len;
        } else {
            bytes_add(&lane->held, piece->text, piece->len);
            lane->waiting = utf8_waiting(lane->held.at, lane->held.len) > 0;
            if (!lane->waiting) {
                lane->text.len = 0;
                bytes_add(&lane->text, lane->held.at, lane->held.len);
                lane->held.len = 0;
                output->text = lane->text.at;
                output->len = lane->text.len;
            }
        }
    }
    return true;
}

/* A decode step reads all positions: its length grows with them. */
static double step_at(const struct task *task)
{
    const struct behaviour *b = &task->s->behaviour;
    double slower = b->decode_slowdown / (1 - b->decode_slowdown) * (double)task->s->lanes[0].cache.count / 1000;
    return b->decode_tps > 0 ? (1 + slower) / b->decode_tps : 0;
}

static enum end generate(struct task *task)
{
    struct session *s = task->s;
    const struct behaviour *b = &s->behaviour;
    double deadline = pace_now();
    int64_t fault = faults_next(b->faults, b->n_faults, 0);

    for (size_t made = 0;; made++) {
        if ((int64_t)made == fault) {
            if (faults_strike(b->faults, b->n_faults, AT_TOKEN, fault))
                return END_FAILED;
            fault = faults_next(b->faults, b->n_faults, fault + 1);
        }
        if (made >= task->most)
            return END_FINISHED;
        if (made > 0 && b->decode_tps > 0) {
            double now = pace_now();
            deadline += step_at(task);
            if (deadline < now) /* the callback took longer than a step: what is lost is not caught up */
                deadline = now;
            pace_until(deadline);
        }
        if (abort_due(s))
            return END_ABORTED;
        if (!npu_undisturbed(s))
            return END_FAILED;
        bool some = false, shown = false;
        for (size_t i = 0; i < task->lanes; i++) {
            if (!advance(s, &s->lanes[i], &task->outputs[i]))
                continue;
            some = true;
            shown |= !s->lanes[i].waiting;
            if (!s->has_embedding && !embed_by_caller(s, &s->lanes[i].token, 1))
                return END_FAILED;
        }
        if (!some)
            return END_FINISHED;
        task->perf.generate_tokens++;
        char clock[32];
        if (b->clock) {
            task->outputs[0].text = clock;
            task->outputs[0].len = (size_t)snprintf(clock, sizeof clock, "%.0f ", pace_now() * 1e9);
        }
        if (deliver(s, task->userdata, shown ? RKLLM_RUN_NORMAL : RKLLM_RUN_WAITING, task->outputs, NULL)) {
            if (!task->infer->keep_history)
                return END_PAUSED;
            log_line('W', "SIMULATOR: return 1 pauses runs with keep_history 0 only");
        }
    }
}

/* ── hidden states and logits ──────────────────────────────────────────────────────────────────── */

static enum end rows(struct task *task)
{
    struct session *s = task->s;
    struct prompt *prompt = &task->prompts[0];
    struct output output = {.token = -1, .count = (int)prompt->count};
    LLMCallState state = RKLLM_RUN_NORMAL;

    if (task->infer->mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER) {
        output.rows = vectors_hidden(s, prompt);
        output.width = s->width;
#if RKLLM_GEN < RKLLM_G3
        state = RKLLM_RUN_GET_LAST_HIDDEN_LAYER;
#endif
    } else {
        size_t first = s->behaviour.logits_last_only ? prompt->count - 1 : 0;
        output.rows = vectors_logits(s, prompt, &s->lanes[0].reply, first);
        output.width = (int)s->vocabulary.count;
        output.count = (int)(prompt->count - first);
        output.logits = true;
    }
    struct output nothing = {.token = -1};
    if (s->behaviour.vectors_finish)
        deliver(s, task->userdata, RKLLM_RUN_NORMAL, &nothing, NULL); /* seen on 1.2.x: one call without data first */
    deliver(s, task->userdata, state, &output, NULL);
    task->perf.generate_tokens = 1;
    return END_FINISHED;
}

/* ── the run ───────────────────────────────────────────────────────────────────────────────────── */

static bool prepare(struct task *task, const struct input *inputs)
{
    struct session *s = task->s;
    const struct infer *infer = task->infer;

    if (infer->lora != NULL && (task->adapter = adapter_named(s, infer->lora)) == NULL) {
        log_line('E', "Not Found Lora adapter named: %s", infer->lora);
        return false;
    }
    if (task->lanes > 1 && infer->mode != RKLLM_INFER_GENERATE) {
        log_line('E', "Getting the %s is not supported for multiple batches",
                 infer->mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER ? "last hidden layer" : "logits");
        return false;
    }
    for (size_t i = 0; i < task->lanes; i++) {
        struct lane *lane = &s->lanes[i];
        bool resumed = s->paused;
        bool empty = inputs[i].type == RKLLM_INPUT_PROMPT && *inputs[i].text == 0;
        if (resumed && (empty || !s->behaviour.resume_reads))
            continue; /* it just goes on */
        if (!prompt_build(s, lane, &inputs[i], &task->prompts[i]))
            return false;
        if (task->prompts[i].count == 0 && !task->continues) {
            log_line('E', "the prompt is empty");
            return false;
        }
        if (resumed)
            continue; /* the rest of the answer follows what was put in */
        lane->said = 0;
        lane->held.len = 0;
        lane->token = -1;
        lane->done = false;
        task->answers = true;
    }
    int32_t most = infer->max_new != 0 ? infer->max_new : s->load.max_new;
    task->most = most > 0 ? (size_t)most : SIZE_MAX;
    return true;
}

/* After the prefill, since an answer may tell what it was computed on. */
static bool choose_replies(const struct task *task)
{
    struct session *s = task->s;
    const struct sampling *sampling = task->infer->has_sampling ? &task->infer->sampling : &s->load.sampling;
    for (size_t i = 0; task->answers && i < task->lanes; i++)
        if (!reply_choose(s, &task->prompts[i], task->adapter, sampling, i, &s->lanes[i].reply))
            return false;
    return true;
}

/* The file is complete before FINISH is told. What an abort inside the prefill leaves is not known: nothing here. */
static void save_cache(const struct task *task, const struct input *inputs, enum end end)
{
    struct session *s = task->s;
    const struct behaviour *b = &s->behaviour;
    const struct lane *lane = &s->lanes[0];
    if (!task->infer->save_cache || end == END_PAUSED || !task->prefilled || (end == END_ABORTED && !b->saves_on_abort))
        return;
    bool logits = task->infer->mode != RKLLM_INFER_GENERATE && task->infer->mode != RKLLM_INFER_GET_LAST_HIDDEN_LAYER;
    bool none = inputs[0].type == RKLLM_INPUT_EMBED || logits;
    if (none && !b->saves_any_run)
        return;
    bool answer = b->saves_answer || lane->prompted > lane->cache.count;
    prompt_cache_save(s, task->infer->cache_path, answer ? lane->cache.count : lane->prompted);
}

static void settle(struct task *task, enum end end)
{
    struct session *s = task->s;
    size_t added = s->lanes[0].cache.count - s->lanes[0].cache.history;
    s->paused = end == END_PAUSED;
    s->was_aborted |= end == END_ABORTED;
    if (task->infer->mode != RKLLM_INFER_GENERATE)
        s->residue_ms += s->behaviour.vector_residue_ms;
    for (size_t i = 0; i < task->lanes; i++) {
        struct cache *cache = &s->lanes[i].cache;
        if (task->infer->keep_history || end == END_PAUSED)
            cache->history = cache->count;
        else
            cache->history = s->lanes[i].before < cache->count ? s->lanes[i].before : cache->count;
    }
    if (s->log_level >= 1 && getenv("RKLLM_SIM_NO_TIMINGS") == NULL)
        timings_log(s, &task->perf);
    if (s->log_level >= 2) {
        if (task->infer->keep_history)
            log_line('I', "In this conversation: the newly added user cache size is %zu; system cache size is %zu", added,
                     s->lanes[0].cache.system);
        log_line('I', end == END_ABORTED ? "rkllm_run was aborted" : "rkllm_run ended");
    }
}

static int perform(struct task *task, const struct input *inputs)
{
    struct session *s = task->s;
    if (s->doomed) {
        log_plain("GGML_ASSERT(view_src == NULL || data_size == 0 || data_size + view_offs <= "
                  "ggml_nbytes(view_src)) failed");
        abort();
    }
    if (s->poisoned) {
        log_line('W', "SIMULATOR: a prompt cache that is loaded after an aborted run crashes the next one");
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (s->loaded_waits && task->infer->keep_history && s->behaviour.appends_to_loaded) {
        prompt_cache_take_up(s);
        s->loaded_waits = false;
        task->continues = task->infer->mode == RKLLM_INFER_GENERATE;
    }
    if (s->log_level >= 2)
        log_line('I', "current kv cache size: %zu", s->lanes[0].cache.history);
    for (size_t i = 0; i < task->lanes && !s->paused; i++)
        s->lanes[i].before = s->lanes[i].cache.history;
    if (!npu_begin(s) || !prepare(task, inputs) || !prefill(task, inputs) || !choose_replies(task))
        return failed(task);
    double prefilled = pace_now();
    task->perf.prefill_ms = (prefilled - task->started) * 1000;

    enum end end = END_ABORTED;
    if (!task->aborted)
        end = task->infer->mode == RKLLM_INFER_GENERATE ? generate(task) : rows(task);
    if (end == END_FAILED)
        return failed(task);
    if (task->infer->mode == RKLLM_INFER_GENERATE)
        task->perf.generate_ms = (pace_now() - prefilled) * 1000;
    bool vectors = task->infer->mode != RKLLM_INFER_GENERATE;
    if (!vectors && !s->behaviour.counts_first && task->perf.generate_tokens > 0)
        task->perf.generate_tokens--; /* the first token belongs to the prefill */
    save_cache(task, inputs, end);
    if (end != END_PAUSED && (!vectors || s->behaviour.vectors_finish)) {
        struct output *finish = task->outputs;
        memset(finish, 0, task->lanes * sizeof *finish);
        for (size_t i = 0; i < task->lanes; i++) {
            finish[i].token = -1;
            if (s->behaviour.finish_text.len > 0) {
                finish[i].text = s->behaviour.finish_text.at;
                finish[i].len = s->behaviour.finish_text.len;
            }
        }
        deliver(s, task->userdata, RKLLM_RUN_FINISH, finish, &task->perf);
    }
    settle(task, end);
    return 0;
}

int run(struct session *s, const struct input *inputs, const struct infer *infer, void *userdata)
{
    size_t lanes = (size_t)s->load.batch;
    struct task task = {
        .s = s,
        .infer = infer,
        .userdata = userdata,
        .lanes = lanes,
        .prompts = need(calloc(lanes, sizeof *task.prompts)),
        .outputs = need(calloc(lanes, sizeof *task.outputs)),
        .started = pace_now(),
    };
    s->runs++;
    board_show_load(&s->board, true);
    int status = perform(&task, inputs);
    npu_end(s);
    board_show_load(&s->board, false);
    for (size_t i = 0; i < lanes; i++)
        prompt_free(&task.prompts[i]);
    free(task.prompts);
    free(task.outputs);
    deliver_free(s);
    return status;
}

struct errand {
    struct session *s;
    struct input *inputs;
    struct infer infer;
    void *userdata;
};

static void *run_errand(void *given)
{
    struct errand *errand = given;
    struct session *s = errand->s;
    session_runs_here(s);
    run(s, errand->inputs, &errand->infer, errand->userdata);
    free(errand->inputs);
    free(errand);
    session_end(s);
    return NULL;
}

int run_async(struct session *s, const struct input *inputs, const struct infer *infer, void *userdata)
{
    struct errand *errand = need(calloc(1, sizeof *errand));
    size_t lanes = (size_t)s->load.batch;
    *errand = (struct errand){.s = s, .infer = *infer, .userdata = userdata};
    errand->inputs = need(calloc(lanes, sizeof *errand->inputs));
    memcpy(errand->inputs, inputs, lanes * sizeof *inputs);
    if (s->has_thread)
        pthread_join(s->thread, NULL);
    session_leaves_thread(s);
    s->has_thread = pthread_create(&s->thread, NULL, run_errand, errand) == 0;
    if (s->has_thread)
        return 0;
    free(errand->inputs);
    free(errand);
    session_end(s);
    return -1;
}
