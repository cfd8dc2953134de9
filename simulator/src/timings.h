/* The timing block of RKLLM_LOG_LEVEL=1, in the vendor's columns. */
#ifndef SIM_TIMINGS_H
#define SIM_TIMINGS_H

#include "deliver.h"

void timings_log(const struct session *session, const struct perf *perf);

#endif
