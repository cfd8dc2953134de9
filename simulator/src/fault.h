/* What goes wrong, and where: "segv@token:5", "exit:3@init", "hang@prefill". */
#ifndef SIM_FAULT_H
#define SIM_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum place { AT_INIT, AT_DESTROY, AT_PREFILL, AT_TOKEN, PLACES };
enum action { DO_SEGV, DO_BUS, DO_ABORT, DO_KILL, DO_EXIT, DO_HANG, DO_STALL, DO_GARBAGE, DO_ERROR, ACTIONS };

struct fault {
    enum action action;
    int64_t value; /* exit code, or milliseconds of a stall */
    enum place place;
    int64_t token;
};

bool fault_parse(const char *text, struct fault *fault);

/* Does what the faults say for this place. True when the run must end with the ERROR state. */
bool faults_strike(const struct fault *faults, size_t count, enum place place, int64_t token);

/* The first token at or after `token` that has a fault, INT64_MAX without one: the decode loop asks once. */
int64_t faults_next(const struct fault *faults, size_t count, int64_t token);

#endif
