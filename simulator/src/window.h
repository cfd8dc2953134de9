/* The context window: what is refused, and what makes room. */
#ifndef SIM_WINDOW_H
#define SIM_WINDOW_H

#include "session.h"

/* For a prompt of `count` positions; false, with a sentence, where it does not fit. */
bool window_make_room(const struct session *session, struct cache *cache, size_t count);

/* While decoding; false ends the answer. What n_keep -1 keeps and how much a shift drops is not known: here it keeps
 * the system section and drops half of the rest. */
bool window_room_for_token(const struct session *session, struct cache *cache);

#endif
