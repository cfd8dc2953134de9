/* What stands behind an LLMHandle. */
#ifndef SIM_SESSION_H
#define SIM_SESSION_H

#include "abi.h"
#include "behaviour.h"
#include "board.h"
#include "bytes.h"
#include "cache.h"
#include "chat.h"
#include "model.h"
#include "vocabulary.h"

#include <pthread.h>
#include <stdatomic.h>

#ifndef SIM_VERSION
#error "the version to imitate: -DSIM_VERSION='\"1.3.0\"'"
#endif

struct adapter {
    char *name;
    struct text reply;
};

/* One element of a batch; there is one when n_batch is 1. */
struct lane {
    struct cache cache;
    size_t before; /* the history as it was before this run, a pause included */
    struct tokens reply; /* the whole answer; kept over a pause */
    size_t said;         /* how many of its tokens were given out */
    struct bytes held;   /* bytes of a character that is not complete */
    struct bytes text;   /* what this step shows */
    int32_t token;
    bool waiting;
    bool done;
    size_t prompted; /* positions once the prompt had been read */
};

struct session {
    struct session *next; /* in the list of living handles */
    struct load load;     /* its strings live in the model and in image_tags */
    struct callbacks callbacks;
    struct board board;
    struct model *model;
    struct vocabulary vocabulary;
    struct behaviour behaviour;
    struct chat chat;
    char *image_tags[3];
    struct adapter *adapters;
    size_t n_adapters;
    struct lane *lanes;
    struct cache loaded; /* a prompt cache file's positions */
    bool loaded_waits;   /* no run has taken them up yet */
    bool was_aborted;    /* some run of this handle */
    bool poisoned;       /* the next run crashes */
    double residue_ms;   /* what vector runs have left behind */
    int npu;             /* RKLLM_SIM_NPU_FILE, held while a run lasts; -1 otherwise */
    char *ballast;       /* sim.malloc_bytes, touched, so that it counts as resident */
    int log_level;
    double init_ms;
    int32_t width; /* embedding length */
    int32_t layers, kv_heads, head_dim;
    int32_t encoder_tokens; /* of rkllm_set_cross_attn_params */
    bool has_tokenizer, has_embedding, has_vision;
    bool doomed; /* init said 0 although it had failed */

    pthread_mutex_t lock; /* the fields below */
    pthread_cond_t idle;
    bool running; /* a run, or another call that must not meet one */
    bool leaving; /* rkllm_destroy waits for the run to end */
    bool has_runner;
    pthread_t runner; /* the thread whose rkllm_destroy would wait for itself */
    pthread_t thread; /* of rkllm_run_async */
    bool has_thread;

    atomic_bool active;       /* what rkllm_is_running says */
    _Atomic int64_t abort_at; /* nanoseconds, monotonic; 0 = nobody wants an abort */
    bool paused;
    unsigned runs;
    void *block; /* the result's memory, see deliver.c */
    size_t block_room;
    float *output; /* hidden states or logits of the last callback */
};

/* 0 or -1 as rkllm_init returns it; 0 with NULL is one of the ways in which a load can fail. */
int session_open(const RKLLMParam *param, const struct callbacks *callbacks, struct session **opened);
void session_free(struct session *session);

/* Living handles, so that a stale or cut-off handle is refused instead of followed. */
void session_register(struct session *session);
bool session_alive(LLMHandle handle);
bool session_any(void);
void session_forget(struct session *session);

bool session_begin(struct session *session); /* false, with a sentence, while a run is active */
void session_leaves_thread(struct session *session); /* the run goes on in another thread, */
void session_runs_here(struct session *session);     /* which is this one */
void session_end(struct session *session);

int run(struct session *session, const struct input *inputs, const struct infer *infer, void *userdata);
int run_async(struct session *session, const struct input *inputs, const struct infer *infer, void *userdata);

int adapter_load(struct session *session, const char *path, const char *name);
uint64_t adapter_hash(const struct adapter *adapter); /* 0 for none */
const struct adapter *adapter_named(const struct session *session, const char *name);

int prompt_cache_load(struct session *session, const char *path);
bool prompt_cache_save(struct session *session, const char *path, size_t count); /* the first `count` positions */
void prompt_cache_take_up(struct session *session); /* the loaded positions become the history */

/* Whether no other process uses the NPU; otherwise what sim.conflict says, which may be to return never. */
bool npu_begin(struct session *session);
bool npu_undisturbed(const struct session *session);
void npu_end(struct session *session);

#endif
