#include "fault.h"

#include "pace.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const ACTION_NAMES[ACTIONS] = {"segv", "bus", "abort", "kill", "exit", "hang", "stall", "garbage", "error"};
static const char *const PLACE_NAMES[PLACES] = {"init", "destroy", "prefill", "token"};

/* Index of the name that `text` starts with, up to ':' or '@' or its end; -1 when there is none. */
static int named(const char *text, const char *const *names, int count, int64_t *value)
{
    size_t len = strcspn(text, ":@");
    *value = text[len] == ':' ? strtoll(text + len + 1, NULL, 10) : 0;
    for (int i = 0; i < count; i++)
        if (strlen(names[i]) == len && strncmp(names[i], text, len) == 0)
            return i;
    return -1;
}

bool fault_parse(const char *text, struct fault *fault)
{
    const char *at = strchr(text, '@');
    if (at == NULL)
        return false;
    int action = named(text, ACTION_NAMES, ACTIONS, &fault->value);
    int place = named(at + 1, PLACE_NAMES, PLACES, &fault->token);
    fault->action = (enum action)action;
    fault->place = (enum place)place;
    return action >= 0 && place >= 0;
}

static bool strike(const struct fault *fault)
{
    /* Neither UTF-8, nor JSON, nor a frame: whoever reads stdout as a protocol sees it break. */
    static const char garbage[] = "\xff\xfe\x00\x01{\"half\": [1, 2,\r\x1b[31m\xc3(\n\x7f\x80garbage\n";
    switch (fault->action) {
    case DO_SEGV:
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
        break;
    case DO_BUS:
        signal(SIGBUS, SIG_DFL);
        raise(SIGBUS);
        break;
    case DO_ABORT:
        abort();
    case DO_KILL:
        raise(SIGKILL);
        break;
    case DO_EXIT:
        exit((int)fault->value);
    case DO_HANG:
        for (;;)
            pause();
    case DO_STALL:
        pace_sleep((double)fault->value / 1000);
        break;
    case DO_GARBAGE:
        fwrite(garbage, 1, sizeof garbage - 1, stdout);
        fflush(stdout);
        break;
    default:
        return true;
    }
    return false;
}

bool faults_strike(const struct fault *faults, size_t count, enum place place, int64_t token)
{
    bool error = false;
    for (size_t i = 0; i < count; i++)
        if (faults[i].place == place && (place != AT_TOKEN || faults[i].token == token))
            error |= strike(&faults[i]);
    return error;
}

int64_t faults_next(const struct fault *faults, size_t count, int64_t token)
{
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < count; i++)
        if (faults[i].place == AT_TOKEN && faults[i].token >= token && faults[i].token < next)
            next = faults[i].token;
    return next;
}
