# COHORT_GIT_REVISION, seen only by the files that mention it. It is asked for at every build, but the header is rewritten (and those
# files recompiled) only when the answer changes.
set(COHORT_REVISION_HEADER ${CMAKE_BINARY_DIR}/generated/revision.h)
add_custom_target(cohort_revision
  COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/revision.sh ${CMAKE_SOURCE_DIR} ${COHORT_REVISION_HEADER}
  BYPRODUCTS ${COHORT_REVISION_HEADER}
  COMMENT "" VERBATIM)

function(cohort_use_revision target)
  get_target_property(sources ${target} SOURCES)
  add_dependencies(${target} cohort_revision)
  foreach(source IN LISTS sources)
    file(STRINGS ${source} mentions REGEX COHORT_GIT_REVISION LIMIT_COUNT 1)
    if(mentions)
      set_property(SOURCE ${source} TARGET_DIRECTORY ${target} APPEND PROPERTY COMPILE_OPTIONS -include ${COHORT_REVISION_HEADER})
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    endif()
  endforeach()
endfunction()
