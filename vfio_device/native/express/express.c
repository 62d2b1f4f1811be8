/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Which commands the express lane takes, and how they are answered. */
#include "express.h"

#include <string.h>

#include "keystore/keystore.cdef.h"
#include "operations.h"
#include "seam.h"

/* What belongs to a session and whose entry says so in the usual way. */
static bool is_usual(const struct hsm_sqe *sqe) {
    return (sqe->command >> IHSM_HSM_COMMAND_WORD_OPC_SHIFT & IHSM_HSM_COMMAND_WORD_OPC_MASK) ==
               IHSM_HSM_OPCODE_NORMAL &&
           sqe->control == IHSM_IN_SESSION_CONTROL;
}

/* Somebody looks at each command who does so in Python: a trace of messages, a shortage of requests. */
static bool is_watched(struct ihsm_engine *engine) {
    struct ihsm_trace *trace = &engine->host->trace;
    return ihsm_traced(trace, IHSM_TRACE_KIND_REQUEST) || ihsm_traced(trace, IHSM_TRACE_KIND_RESPONSE) ||
           ihsm_inject_armed(&engine->inject, IHSM_ACTION_BIT(EXHAUST_RESOURCE));
}

/* The message answers the command; session and key are held. */
static void answer(struct ihsm_engine *engine, const struct ihsm_command *command, const struct ihsm_job *job) {
    int outcome = ihsm_engine_complete_hsm(engine, command->queue_id, command->generation, command->sqe,
                                           command->request, job->out.message, job->out.at, (unsigned)job->out.at,
                                           IHSM_IN_SESSION_CONTROL, job->head.sess_id, 0, IHSM_HSM_STATUS_SUCCESS);
    if (outcome == IHSM_DATA_FAILED)
        ihsm_engine_complete_hsm(engine, command->queue_id, command->generation, command->sqe, command->request, NULL,
                                 0, 0, 0, 0, 0, IHSM_HSM_STATUS_DMA_ERROR);
}

enum ihsm_express ihsm_express(struct ihsm_engine *engine, const struct ihsm_command *command, bool may_be_slow) {
    struct ihsm_published *published = engine->published;
    struct hsm_sqe sqe;
    uint8_t message[IHSM_MAX_REQUEST_BYTES];
    struct ihsm_published_session session;
    uint64_t ticket;

    if (published == NULL)
        return IHSM_EXPRESS_NOT;
    struct ihsm_job job = {.published = published,
                           .in = {.message = command->request, .len = command->request_len},
                           .out = {.message = message}};
    memcpy(&sqe, command->sqe, sizeof sqe);
    if (!is_usual(&sqe) || !ihsm_req_hdr_read(&job.in, &job.head) || job.head.sess_id != sqe.session_id)
        return IHSM_EXPRESS_NOT;
    const struct ihsm_operation *operation = ihsm_operation_find(job.head.op);
    if (operation == NULL || is_watched(engine))
        return IHSM_EXPRESS_NOT;
    if (operation->slow && !may_be_slow)
        return IHSM_EXPRESS_SLOW;
    job.fips = ihsm_published_fips(published);
    if (!ihsm_published_find_session(published, job.head.sess_id, &session, &ticket) ||
        session.major != job.head.rev_major || session.minor != job.head.rev_minor || !operation->run(&job))
        return IHSM_EXPRESS_NOT;
    if (ks_unlocked_is_news())
        return IHSM_EXPRESS_NOT; /* Python tells of it after each command */
    IHSM_SEAM(EXPRESS_RUN);
    if (!ihsm_published_hold(published, job.head.sess_id, ticket, job.key_id, job.key_ticket))
        return IHSM_EXPRESS_NOT;
    IHSM_SEAM(EXPRESS_HELD);
    answer(engine, command, &job);
    ihsm_published_let_go(published, job.head.sess_id, job.key_id);
    ihsm_count(&engine->counters.hsm_express, 1);
    return IHSM_EXPRESS_DONE;
}
