/* One call of the result callback, with a result whose memory dies when the callback returns. */
#ifndef SIM_DELIVER_H
#define SIM_DELIVER_H

#include "session.h"

struct perf {
    double prefill_ms;
    int prefill_tokens;
    double generate_ms;
    int generate_tokens;
};

struct output {
    const char *text; /* NULL: none */
    size_t len;
    int32_t token;
    float *rows; /* malloc'd; owned by the session once it is delivered */
    int width;
    int count;
    bool logits;
};

/* The callback's answer: 0 go on, 1 pause; before 1.2.1 always 0. */
int deliver(struct session *session, void *userdata, LLMCallState state, const struct output *outputs,
            const struct perf *perf);
void deliver_free(struct session *session);
float memory_peak_mb(void);

#endif
