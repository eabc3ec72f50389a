#include "stream.hpp"

#include <deque>
#include <map>
#include <stdlib.h>
#include <string>
#include <time.h>

struct simt_stream {
    uint64_t id;
    bool ahead;
    uint64_t issued, done; /* pieces of work so far */
    std::deque<simt_work> queue;
    std::string problem, told;
    bool recording;
    std::vector<simt_work> recorded;
};

static std::map<uint64_t, simt_stream *> alive; /* by id */
static std::string letters_now;

void simt_streams(const char *letters) {
    letters_now = letters;
}

static bool next_is_ahead() {
    if (letters_now.empty()) {
        const char *wanted = getenv("COHORT_SIMT_STREAMS");
        letters_now = wanted && *wanted ? wanted : "b";
    }
    return letters_now[alive.size() < letters_now.size() ? alive.size() : letters_now.size() - 1] == 'a';
}

/* Does the work up to a place. Work may ask the same of other streams, but never of this one: an event is a
 * place that was in its queue before it was awaited. */
static void advance(simt_stream *stream, uint64_t place) {
    while (stream->done < place) {
        simt_work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->done++;
        const char *problem = stream->problem.empty() ? work() : nullptr;
        if (problem) stream->problem = problem;
    }
}

simt_stream *simt_stream_create() {
    static uint64_t last_id;
    simt_stream *stream = new simt_stream{++last_id, next_is_ahead(), 0, 0, {}, {}, {}, false, {}};
    alive[stream->id] = stream;
    return stream;
}

void simt_stream_destroy(simt_stream *stream) {
    advance(stream, stream->issued);
    alive.erase(stream->id);
    delete stream;
}

const char *simt_issue(simt_stream *stream, simt_work work) {
    if (!stream) return work();
    if (stream->recording) {
        stream->recorded.push_back(std::move(work));
        return nullptr;
    }
    stream->queue.push_back(std::move(work));
    stream->issued++;
    if (stream->ahead) advance(stream, stream->issued);
    return nullptr;
}

void simt_record_begin(simt_stream *stream) {
    stream->recording = true;
}

std::vector<simt_work> simt_record_end(simt_stream *stream) {
    stream->recording = false;
    return std::move(stream->recorded);
}

bool simt_is_recording(const simt_stream *stream) {
    return stream->recording;
}

const char *simt_stream_wait(simt_stream *stream) {
    if (stream->recording) return "the host waits for a stream that is being captured";
    advance(stream, stream->issued);
    stream->told = std::move(stream->problem);
    stream->problem.clear();
    return stream->told.empty() ? nullptr : stream->told.c_str();
}

void simt_stream_catch_up(void *stream) {
    advance(static_cast<simt_stream *>(stream), static_cast<simt_stream *>(stream)->issued);
}

static double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void simt_event_record(simt_stream *stream, simt_event *event) {
    event->stream = stream->id;
    event->place = stream->issued + 1;
    simt_issue(stream, [at = event->at] {
        *at = now();
        return nullptr;
    });
}

void simt_event_wait(const simt_event &event) {
    auto found = alive.find(event.stream);
    if (found != alive.end()) advance(found->second, event.place);
}

void simt_event_await(simt_stream *stream, const simt_event &event) {
    simt_issue(stream, [event] {
        simt_event_wait(event);
        return nullptr;
    });
}
