/* Time: absolute deadlines, so that a pace of 20 tokens/s does not drift. */
#ifndef SIM_PACE_H
#define SIM_PACE_H

double pace_now(void);            /* seconds, monotonic */
void pace_until(double deadline); /* returns at once when the deadline has passed */
void pace_sleep(double seconds);

#endif
