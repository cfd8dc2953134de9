/* Hidden states and logits: no network behind them, but the same text always gives the same numbers. */
#ifndef SIM_VECTORS_H
#define SIM_VECTORS_H

#include "prompt.h"

/* [count][width] rows: each position is the sum of the pieces up to it, so that similar texts get similar rows. */
float *vectors_hidden(const struct session *session, const struct prompt *prompt);

/* [rows][vocabulary]: low pseudo-random values, and a high one for the token that comes next. */
float *vectors_logits(const struct session *session, const struct prompt *prompt, const struct tokens *reply,
                      size_t first_row);

#endif
