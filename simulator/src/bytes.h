/* A growable run of bytes, and allocation that does not fail quietly. */
#ifndef SIM_BYTES_H
#define SIM_BYTES_H

#include <stddef.h>

struct bytes {
    char *at; /* NUL-terminated whenever len > 0 or after bytes_text() */
    size_t len;
    size_t room;
};

void *need(void *memory); /* ends the process when an allocation failed */
void *grown(void *memory, size_t have, size_t *room, size_t want, size_t item);
char *copied(const char *text);

void bytes_add(struct bytes *to, const void *from, size_t len);
void bytes_say(struct bytes *to, const char *text);
const char *bytes_text(struct bytes *of);
void bytes_free(struct bytes *of);

#endif
