/* What the simulated model answers. */
#ifndef SIM_REPLY_H
#define SIM_REPLY_H

#include "prompt.h"

/* False when the caller's tokenizer failed. */
bool reply_choose(struct session *session, const struct prompt *prompt, const struct adapter *adapter,
                  const struct sampling *sampling, size_t lane, struct tokens *to);

#endif
