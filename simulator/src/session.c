#include "session.h"

#include "log.h"

#include <stdlib.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct session *living;

void session_register(struct session *session)
{
    pthread_mutex_lock(&list_lock);
    session->next = living;
    living = session;
    pthread_mutex_unlock(&list_lock);
}

bool session_alive(LLMHandle handle)
{
    pthread_mutex_lock(&list_lock);
    struct session *at = living;
    while (at != NULL && at != handle)
        at = at->next;
    pthread_mutex_unlock(&list_lock);
    return at != NULL;
}

bool session_any(void)
{
    pthread_mutex_lock(&list_lock);
    bool any = living != NULL;
    pthread_mutex_unlock(&list_lock);
    return any;
}

void session_forget(struct session *session)
{
    pthread_mutex_lock(&list_lock);
    struct session **at = &living;
    while (*at != NULL && *at != session)
        at = &(*at)->next;
    if (*at != NULL)
        *at = session->next;
    pthread_mutex_unlock(&list_lock);
}

bool session_begin(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    bool free = !s->running && !s->leaving;
    if (free) {
        s->running = true;
        s->has_runner = true;
        s->runner = pthread_self();
        atomic_store(&s->abort_at, 0);
    }
    pthread_mutex_unlock(&s->lock);
    if (!free)
        log_line('E', "SIMULATOR: the handle is busy, one run at a time");
    return free;
}

void session_leaves_thread(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    s->has_runner = false;
    pthread_mutex_unlock(&s->lock);
}

void session_runs_here(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    s->has_runner = true;
    s->runner = pthread_self();
    pthread_mutex_unlock(&s->lock);
}

void session_end(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    s->running = false;
    atomic_store(&s->active, false);
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
}

void session_free(struct session *s)
{
    if (s == NULL)
        return;
    if (s->has_thread)
        pthread_join(s->thread, NULL);
    for (int32_t i = 0; s->lanes != NULL && i < s->load.batch; i++) {
        cache_free(&s->lanes[i].cache);
        tokens_free(&s->lanes[i].reply);
        bytes_free(&s->lanes[i].held);
        bytes_free(&s->lanes[i].text);
    }
    free(s->lanes);
    for (size_t i = 0; i < s->n_adapters; i++) {
        free(s->adapters[i].name);
        free(s->adapters[i].reply.at);
    }
    free(s->adapters);
    for (int i = 0; i < 3; i++)
        free(s->image_tags[i]);
    cache_free(&s->loaded);
    chat_free(&s->chat);
    behaviour_free(&s->behaviour);
    vocabulary_free(&s->vocabulary);
    model_close(s->model);
    free(s->ballast);
    free(s->block);
    free(s->output);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->idle);
    free(s);
}
