#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* One fwrite a line, so that lines of several threads do not mix. RKLLM_SIM_BUFFERED leaves them in stdio's
 * buffer, as a library does that never flushes: a reader of the descriptor then sees nothing until it does. */
static void put(const char *prefix, const char *format, va_list values)
{
    char line[4096];
    int used = snprintf(line, sizeof line, "%s", prefix);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, values);
    size_t len = (size_t)used + (more < 0 ? 0 : (size_t)more);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len] = '\n';
    fwrite(line, 1, len + 1, stdout);
    if (getenv("RKLLM_SIM_BUFFERED") == NULL)
        fflush(stdout);
}

void log_line(char severity, const char *format, ...)
{
    char prefix[] = "? rkllm: ";
    prefix[0] = severity;
    va_list values;
    va_start(values, format);
    put(prefix, format, values);
    va_end(values);
}

void log_npu(char severity, const char *format, ...)
{
    char prefix[48];
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    snprintf(prefix, sizeof prefix, "%c RKNN: [%02d:%02d:%02d.%03d] ", severity, local.tm_hour % 24, local.tm_min % 60,
             local.tm_sec % 61, (int)(now.tv_nsec / 1000000));
    va_list values;
    va_start(values, format);
    put(prefix, format, values);
    va_end(values);
}

void log_plain(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    put("", format, values);
    va_end(values);
}

void log_canary(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    put("E rkllm: SIMULATOR: wrong struct layout? ", format, values);
    va_end(values);
}

int log_level(void)
{
    const char *wanted = getenv("RKLLM_LOG_LEVEL");
    return wanted == NULL ? 0 : atoi(wanted);
}
