/* stream.hpp - streams and events of the machine, which order work no more than they must.
 *
 * Work that is issued to a stream waits in its queue until somebody waits for it: the host for the stream or
 * for an event, or work of another stream that awaits an event. Then the queue is done from its front, as far
 * as it was waited for. So a stream is as far behind the others as the waits allow. A stream that is *ahead*
 * does its work when it is issued instead, and whatever that awaits before it. Any of these orders may be a
 * GPU's: a caller whose waits are missing reads what is not there yet, or not any more, in one of them. */
#ifndef COHORT_SIMT_STREAM_HPP
#define COHORT_SIMT_STREAM_HPP

#include <functional>
#include <memory>
#include <stdint.h>
#include <vector>

struct simt_stream;

/* Returns NULL, or what was wrong; a stream does nothing more after that until it was waited for. */
typedef std::function<const char *()> simt_work;

/* Which streams created from now on are ahead: the letter for as many as are alive already, 'a' ahead or 'b'
 * behind; the last letter for all further ones. At the start COHORT_SIMT_STREAMS, else "b". */
void simt_streams(const char *letters);

simt_stream *simt_stream_create();
void simt_stream_destroy(simt_stream *stream); /* its work is done before */
/* A null stream has no queue: the work is done at once, and what was wrong comes back. Else NULL. */
const char *simt_issue(simt_stream *stream, simt_work work);
/* NULL, or what was first wrong since the last time. */
const char *simt_stream_wait(simt_stream *stream);

/* Between the two, work that is issued is not done but kept, to be issued again: a graph. */
void simt_record_begin(simt_stream *stream);
std::vector<simt_work> simt_record_end(simt_stream *stream);
bool simt_is_recording(const simt_stream *stream);

/* For libraries that are given a gpu_stream: does all its work so far. */
extern "C" void simt_stream_catch_up(void *stream);

/* A place in a stream's queue. */
struct simt_event {
    uint64_t stream = 0; /* 0: it was never recorded */
    uint64_t place = 0;
    std::shared_ptr<double> at = std::make_shared<double>(0); /* seconds, once it is reached */
};
void simt_event_record(simt_stream *stream, simt_event *event);
void simt_event_await(simt_stream *stream, const simt_event &event);
void simt_event_wait(const simt_event &event); /* the host */

#endif
