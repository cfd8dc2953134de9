/* What a simulated model sees: colours and places, read out of the rows that the stand-in's encoder made. */
#ifndef SIM_VISION_H
#define SIM_VISION_H

#include "prompt.h"

/* One sentence for each picture of the prompt; noise where the rows are not the encoder's. */
void vision_describe(const struct session *session, const struct prompt *prompt, struct bytes *to);

#endif
