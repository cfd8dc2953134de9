/* Lines on stdout, the only place where the vendor's library says why something failed. */
#ifndef SIM_LOG_H
#define SIM_LOG_H

#if defined(__GNUC__)
#define SIM_PRINTF(text, values) __attribute__((format(printf, text, values)))
#endif

void log_line(char severity, const char *format, ...) SIM_PRINTF(2, 3);  /* "E rkllm: ..." */
void log_npu(char severity, const char *format, ...) SIM_PRINTF(2, 3);   /* "E RKNN: [12:00:00.000] ..." */
void log_plain(const char *format, ...) SIM_PRINTF(1, 2);                /* a line without a prefix */
void log_canary(const char *format, ...) SIM_PRINTF(1, 2);               /* the caller's memory makes no sense */
int log_level(void);                                                     /* RKLLM_LOG_LEVEL, 0 to 2 */

#endif
