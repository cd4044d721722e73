# find_package(@NAME@) of the model @NAME@: builds it from source with the project's own compiler.
if(NOT TARGET edgec::@NAME@)
  add_subdirectory(${CMAKE_CURRENT_LIST_DIR} ${CMAKE_BINARY_DIR}/edgec-@NAME@)
endif()
