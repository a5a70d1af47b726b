"use strict";
// Runs in the head: shows one page at a time by the address's fragment (#page, or #section within one) and lets
// the reader choose light or dark. Without scripts every page is shown, one below the other.
(() => {
  const root = document.documentElement;
  root.classList.add("paged");

  function show() {
    const pages = [...document.querySelectorAll(".page")];
    const wanted = decodeURIComponent(location.hash.slice(1));
    const target = wanted ? document.getElementById(wanted) : null;
    const current = target?.closest(".page") ?? pages[0];
    pages.forEach((page) => page.classList.toggle("current", page === current));
    document.querySelectorAll("nav.pages a").forEach((link) => {
      const here = link.hash === `#${current.id}`;
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      if (here) reveal(link);
    });
    if (target && target !== current) target.scrollIntoView();
    else window.scrollTo(0, 0);
  }

  // Scrolls the list of pages, and nothing else, far enough to show the link.
  function reveal(link) {
    const list = link.parentElement;
    const box = link.getBoundingClientRect();
    const frame = list.getBoundingClientRect();
    if (box.left < frame.left) list.scrollLeft -= frame.left - box.left + 24;
    if (box.right > frame.right) list.scrollLeft += box.right - frame.right + 24;
  }

  // What stays in sight below the list of pages must know its height, which depends on how many rows it takes.
  function tellHeight() {
    const list = document.querySelector("nav.pages");
    const tell = () => root.style.setProperty("--list-height", `${list.offsetHeight}px`);
    new ResizeObserver(tell).observe(list);
  }

  function offerSchemes() {
    const button = document.querySelector("button.scheme");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : dark.matches);
    const name = () => (button.textContent = isDark() ? "Light" : "Dark");
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.scheme = isDark() ? "light" : "dark";
      name();
      window.dispatchEvent(new Event("schemechange"));
    });
    dark.addEventListener("change", () => {
      name();
      window.dispatchEvent(new Event("schemechange"));
    });
    name();
  }

  window.addEventListener("hashchange", show);
  window.addEventListener("load", show); // the browser has scrolled to the fragment by itself
  document.addEventListener("DOMContentLoaded", () => {
    show();
    tellHeight();
    offerSchemes();
  });
})();
