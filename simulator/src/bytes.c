#include "bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *need(void *memory)
{
    if (memory == NULL) {
        fputs("E rkllm: SIMULATOR: out of memory\n"
              "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n", stderr);
        abort();
    }
    return memory;
}

void *grown(void *memory, size_t have, size_t *room, size_t want, size_t item)
{
    if (have + want <= *room)
        return memory;
    size_t larger = *room < 16 ? 16 : *room * 2;
    while (larger < have + want)
        larger *= 2;
    *room = larger;
    return need(realloc(memory, larger * item));
}

char *copied(const char *text)
{
    return text == NULL ? NULL : need(strdup(text));
}

void bytes_add(struct bytes *to, const void *from, size_t len)
{
    to->at = grown(to->at, to->len, &to->room, len + 1, 1);
    if (len > 0)
        memcpy(to->at + to->len, from, len);
    to->len += len;
    to->at[to->len] = 0;
}

void bytes_say(struct bytes *to, const char *text)
{
    bytes_add(to, text, text == NULL ? 0 : strlen(text));
}

const char *bytes_text(struct bytes *of)
{
    if (of->at == NULL)
        bytes_add(of, "", 0);
    return of->at;
}

void bytes_free(struct bytes *of)
{
    free(of->at);
    *of = (struct bytes){0};
}
