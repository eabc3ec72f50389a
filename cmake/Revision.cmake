# COHORT_GIT_REVISION for the files that name it. It is asked for at every build, but the header is rewritten (and those files recompiled)
# only when the answer changes.
set(COHORT_REVISION_HEADER ${CMAKE_BINARY_DIR}/generated/revision.h)
add_custom_target(cohort_revision
  COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/revision.sh ${CMAKE_SOURCE_DIR} ${COHORT_REVISION_HEADER}
  BYPRODUCTS ${COHORT_REVISION_HEADER}
  COMMENT "" VERBATIM)
set_property(SOURCE sim/command/cli.c sim/run/trace_open.c APPEND PROPERTY COMPILE_OPTIONS -include ${COHORT_REVISION_HEADER})
